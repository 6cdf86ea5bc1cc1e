package source

import (
	"cmp"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/yaml"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/internal/crash"
)

// ownFiles is our folder below status/, as it should be.
type ownFiles struct {
	dir     string
	writing sync.Mutex // held over a change of files and of the disk, and of what follows
	folder  stamp      // of dir, when all files in it were found right; zero: they were not
	trust   int        // how often it was trusted since

	mu      sync.Mutex // of what follows; d.mu may be held
	files   map[string]ownFile
	gone    map[api.Ref]bool // until settled: what WritePod was told is gone
	settled bool             // SyncPods has said what lives
	failed  error
}

// ownFile is one file: the interface it is of, and what was written when.
type ownFile struct {
	pod     *Pod
	data    []byte
	written stamp // zero: not
}

func comparePods(a, b *Pod) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Attachment.IfName, b.Attachment.IfName))
}

// pods are what we attached, sorted.
func (o *ownFiles) pods() []*Pod {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]*Pod, 0, len(o.files))
	for _, f := range o.files {
		out = append(out, f.pod)
	}
	slices.SortFunc(out, comparePods)
	return out
}

func (o *ownFiles) err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failed
}

// fail notes how the last change of files or of the disk went. o.writing is held.
func (o *ownFiles) fail(err error) error {
	if err != nil {
		o.folder = stamp{}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed = err
	return err
}

// WritePod writes, or when gone removes, the status file of one attachment of this
// node. On an error (no folder, no right to write) it is tried again by [Dir.Run].
func (d *Dir) WritePod(e api.Endpoint, gone bool) error {
	name, pod := d.ownPod(e)
	d.own.writing.Lock()
	defer d.own.writing.Unlock()
	d.own.mu.Lock()
	have, ok := d.own.files[name]
	if !d.own.settled {
		d.own.gone[e.Ref] = gone
	}
	if gone && (!ok || have.pod.Attachment != e.Ref) { // a newer sandbox of the pod has it
		d.own.mu.Unlock()
		return nil
	}
	if gone {
		delete(d.own.files, name)
	} else {
		d.own.files[name] = ownFile{pod: pod, data: marshal(pod)}
	}
	d.own.mu.Unlock()
	d.ownChanged(pod, have.pod)
	if gone {
		return d.own.fail(d.own.remove(name))
	}
	return d.own.fail(d.own.write(name))
}

// ownChanged marks the state as older than what we attached, after a change of our pods, and tells of it if there are
// policies, or if it changes slices: if a Service whose endpoints are derived selects now or
// before (either may be nil; of both nil, it may be any pod).
func (d *Dir) ownChanged(now, before *Pod) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ownStale = true
	selects := func(v *Service) bool {
		return (now == nil && before == nil) || (now != nil && v.selects(now)) || (before != nil && v.selects(before))
	}
	if len(d.state.Policies)+len(d.state.ClusterPolicies) > 0 || slices.ContainsFunc(d.state.derived, selects) {
		d.tell()
	}
}

// SyncPods makes our folder below status/ hold exactly the live attachments; for the
// start, before which a crashed daemon may have left files. What WritePod was told
// before is newer than live.
func (d *Dir) SyncPods(live []api.Endpoint) error {
	files := map[string]ownFile{}
	for _, e := range slices.SortedFunc(slices.Values(live), func(a, b api.Endpoint) int { return a.Since.Compare(b.Since) }) {
		name, pod := d.ownPod(e)
		files[name] = ownFile{pod: pod, data: marshal(pod)}
	}
	settle := func() {
		d.own.mu.Lock()
		defer d.own.mu.Unlock()
		maps.DeleteFunc(files, func(_ string, f ownFile) bool { return d.own.gone[f.pod.Attachment] })
		if !d.own.settled {
			maps.Copy(files, d.own.files)
		}
		d.own.files, d.own.settled, d.own.gone = files, true, map[api.Ref]bool{}
	}
	d.own.writing.Lock()
	defer d.own.writing.Unlock()
	settle()
	d.ownChanged(nil, nil)
	return d.own.restore()
}

// restoreOwn puts back what somebody removed or changed in our folder.
func (d *Dir) restoreOwn() {
	d.own.writing.Lock()
	defer d.own.writing.Unlock()
	if d.own.trusted() {
		return
	}
	if err := d.own.restore(); err != nil {
		d.opts.Log.Debug("write status of our pods", "err", err)
	}
}

// trustMost is how often files are not looked at one by one while nothing was made, renamed or
// removed in their folder: they may have been written to in place.
const trustMost = 3

// trusted says that all files were right, and that nothing in their folder has changed since, as
// far as it tells. o.writing is held.
func (o *ownFiles) trusted() bool {
	now, err := os.Stat(o.dir)
	if err != nil || o.err() != nil || o.folder != stampOf(now) || o.trust == trustMost {
		return false
	}
	o.trust++
	return true
}

// restore makes the folder on the disk what it should be. o.writing is held.
func (o *ownFiles) restore() error {
	o.mu.Lock()
	files, settled := maps.Clone(o.files), o.settled
	o.mu.Unlock()
	o.folder, o.trust = stamp{}, 0
	folder, statErr := os.Stat(o.dir) // before it is read: what changes meanwhile is not overlooked
	entries, err := os.ReadDir(o.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return o.fail(err)
	}
	var errs []error
	right := statErr == nil
	same := map[string]bool{}
	for _, e := range entries {
		name := e.Name()
		info, err := e.Info()
		f, ours := files[name]
		same[name] = err == nil && ours && f.written != stamp{} && f.written == stampOf(info)
		if !ours && settled {
			errs, right = append(errs, o.remove(name)), false
		}
	}
	for name := range files {
		if !same[name] {
			errs, right = append(errs, o.write(name)), false
		}
	}
	if right {
		o.folder = stampOf(folder)
	}
	return o.fail(errors.Join(errs...))
}

// write puts one file in its place, at once for every reader. It is not made durable:
// the next start writes all of them.
func (o *ownFiles) write(name string) error {
	o.mu.Lock()
	f := o.files[name]
	o.mu.Unlock()
	if err := o.mkdir(); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	path, temp := filepath.Join(o.dir, name), filepath.Join(o.dir, "."+name+".tmp")
	err := os.WriteFile(temp, f.data, 0o644)
	crash.Point("source: write")
	if err == nil {
		err = os.Rename(temp, path)
		crash.Point("source: rename")
	}
	if err != nil {
		return fmt.Errorf("write status: %w", errors.Join(err, os.RemoveAll(temp)))
	}
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	f.written = stampOf(info)
	o.mu.Lock()
	o.files[name] = f
	o.mu.Unlock()
	return nil
}

// mkdir makes our folder, and status/, but never the folder of the source itself: that
// it is missing is for a person to see.
func (o *ownFiles) mkdir() error {
	if _, err := os.Stat(o.dir); err == nil {
		return nil
	}
	for _, dir := range []string{filepath.Dir(o.dir), o.dir} {
		err := os.Mkdir(dir, 0o755)
		crash.Point("source: mkdir")
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

func (o *ownFiles) remove(name string) error {
	err := os.RemoveAll(filepath.Join(o.dir, name))
	crash.Point("source: remove")
	if err != nil {
		return fmt.Errorf("remove status: %w", err)
	}
	return nil
}

// ownPod is the Pod of one of our attachments and the name of its file: that of the pod
// as far as it is a Kubernetes name, so that no runtime can name a file elsewhere.
func (d *Dir) ownPod(e api.Endpoint) (file string, pod *Pod) {
	pod = &Pod{Namespace: e.PodNamespace, Name: e.PodName, UID: e.PodUID, Node: d.opts.Node, IPs: slices.Clone(e.IPs), Attachment: e.Ref, Ready: true}
	if !validName(pod.Namespace) {
		pod.Namespace = "default"
	}
	if !validName(pod.Name) {
		pod.Name = e.ContainerID
	}
	if !validName(pod.Name) {
		sum := sha1.Sum([]byte(e.ContainerID))
		pod.Name = hex.EncodeToString(sum[:])
	}
	d.mu.Lock()
	for _, f := range d.view.root {
		i := slices.IndexFunc(f.pods, func(p *Pod) bool { return p.Name == pod.Name && p.Namespace == pod.Namespace })
		if i >= 0 {
			pod.Labels, pod.UID, pod.Declared = f.pods[i].Labels, cmp.Or(f.pods[i].UID, e.PodUID), true
			break
		}
	}
	d.mu.Unlock()
	if !pod.Declared && d.opts.Labels != nil {
		pod.Labels = maps.Clone(d.opts.Labels(e.Ref))
	}
	file = pod.Namespace + "_" + pod.Name
	if e.IfName != "eth0" {
		file += "_" + strings.ReplaceAll(e.IfName, "/", "_")
	}
	return file + ".yaml", pod
}

// marshal is the Pod as its status file has it.
func marshal(p *Pod) []byte {
	o := podObject{
		APIVersion: "v1", Kind: "Pod",
		Metadata: metadata{
			Name: p.Name, Namespace: p.Namespace, UID: p.UID, Labels: p.Labels,
			Annotations: map[string]string{attachmentAnnotation: p.Attachment.String()},
		},
		Spec:   podSpec{NodeName: p.Node},
		Status: podStatus{Phase: "Running"},
	}
	if p.Declared {
		o.Metadata.Annotations[declaredAnnotation] = "true"
	}
	for _, a := range p.IPs {
		o.Status.PodIPs = append(o.Status.PodIPs, podIP{a.String()})
	}
	if len(p.IPs) > 0 {
		o.Status.PodIP = p.IPs[0].String()
	}
	data, err := yaml.Marshal(o)
	if err != nil { // strings and maps of strings only
		panic(err)
	}
	return data
}
