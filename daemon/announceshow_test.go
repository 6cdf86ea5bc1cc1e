package daemon

import (
	"context"
	"fmt"
	"testing"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/testnet"
)

// Whoever asks for Services, one way or another, is told who announces their load balancers'
// addresses; of those that are others', nobody.
func TestServicesSayWhoAnnouncesTheirAddresses(t *testing.T) {
	l := newLab(t)
	a := l.add()
	a.usual()
	for name, class := range map[string]string{"ours": "weft.dev/l2", "others": "example.com/lb"} {
		number := len(name)
		l.file(name+".yaml", fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: default}
spec: {type: LoadBalancer, loadBalancerClass: %[2]s, clusterIP: 10.96.0.%[3]d, ports: [{port: 80, nodePort: 3008%[3]d}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.10%[3]d}]}}
`, name, class, number))
	}
	a.start()
	a.ready()
	c := a.client()
	for way, list := range map[string]func(ctx context.Context) ([]api.Service, error){
		"all": func(ctx context.Context) ([]api.Service, error) { return c.Services(ctx, "") },
		"found": func(ctx context.Context) ([]api.Service, error) {
			page, err := c.FindServices(ctx, api.ServiceQuery{Limit: 10})
			return page.Services, err
		},
		"watched": func(ctx context.Context) ([]api.Service, error) {
			ours, err := c.WatchedService(ctx, "default/ours")
			if err != nil {
				return nil, err
			}
			others, err := c.WatchedService(ctx, "default/others")
			return append(ours, others...), err
		},
	} {
		testnet.Until(t, converge, func() error {
			got, err := list(t.Context())
			if err != nil {
				return err
			}
			said := map[string]string{}
			for _, s := range got {
				for _, f := range s.Fronts {
					said[s.Name+" "+f.Kind] = f.Announcer
				}
			}
			want := map[string]string{
				"ours LB": a.name(), "ours ClusterIP": "", "ours NodePort": "",
				"others LB": "", "others ClusterIP": "", "others NodePort": "",
			}
			if fmt.Sprint(said) != fmt.Sprint(want) {
				return fmt.Errorf("%s: announcers are %v, want %v", way, said, want)
			}
			return nil
		})
	}
}
