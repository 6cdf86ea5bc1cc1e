{{- /* weftd's file of settings. */ -}}
{{- define "weft.settings" -}}
source: kube
api-servers: {{ .Values.apiServers | quote }}
kubelet-kubeconfig: {{ .Values.kubeletKubeconfig | quote }}
overlay: {{ .Values.overlay | quote }}
port: {{ .Values.port | int }}
mtu: {{ .Values.mtu | int }}
masquerade: {{ .Values.masquerade }}
services: {{ .Values.services }}
nodeport-addresses: {{ .Values.nodeportAddresses | quote }}
forwarding: {{ .Values.forwarding | quote }}
load-balancer-pools: {{ .Values.loadBalancerPools | quote }}
load-balancer-default: {{ .Values.loadBalancerDefault }}
cgroup: {{ .Values.cgroup | quote }}
max-pods: {{ .Values.maxPods | int }}
health-port: {{ .Values.healthPort | int }}
metrics-address: {{ .Values.metricsAddress | quote }}
log-level: {{ .Values.logLevel | quote }}
cni-bin-dir: {{ .Values.cniBinDir | quote }}
cni-conf-dir: {{ .Values.cniConfDir | quote }}
cni-chain: {{ .Values.cniChain | quote }}
{{- end }}
