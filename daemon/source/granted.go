package source

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// grantsFile, below status/, has the addresses and conditions of load balancers, in the
	// form of Services' status. Who holds the lock of grantsLock writes it.
	grantsFile = "load-balancers.json"
	grantsLock = ".load-balancers.lock"
	// electEvery is how often a daemon tries to get the lock, and its holder looks whether
	// the file is still there.
	electEvery = time.Second
)

// grants is what is known of that file.
type grants struct {
	dir  string     // status/
	lock sync.Mutex // held while it is read or written

	// What was read last; status is never changed. Guarded by Dir.mu, and written with lock.
	stamp  stamp
	status map[nameIn]serviceStatus
	err    error
}

type grantObject struct {
	Metadata metadata      `json:"metadata"`
	Status   serviceStatus `json:"status"`
}

type grantList struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Items      []grantObject `json:"items"`
}

// loadGrants reads the file if it is another than before, and says whether what is known
// changed.
func (d *Dir) loadGrants() (changed bool) {
	d.grants.lock.Lock()
	defer d.grants.lock.Unlock()
	return d.loadGrantsLocked()
}

func (d *Dir) loadGrantsLocked() (changed bool) {
	path := filepath.Join(d.grants.dir, grantsFile)
	at, status := stamp{}, map[nameIn]serviceStatus(nil)
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case err == nil:
		if at = stampOf(info); at == d.grants.stamp {
			return false
		}
		var data []byte
		if data, err = readFile(path, info); err == nil {
			status, err = decodeGrants(data)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("%s: %w; what was known before stays; mend it, or remove it and addresses are given anew", filepath.Join(statusDir, grantsFile), err)
		changed = d.grants.err == nil || d.grants.err.Error() != err.Error()
		d.grants.err = err // it is read again
		return changed
	}
	changed = d.grants.err != nil || !reflect.DeepEqual(status, d.grants.status)
	d.grants.stamp, d.grants.status, d.grants.err = at, status, nil
	if changed {
		d.stale = true
		d.tell()
	}
	return changed
}

func decodeGrants(data []byte) (map[nameIn]serviceStatus, error) {
	var list grantList
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&list); err != nil {
		return nil, err
	}
	out := make(map[nameIn]serviceStatus, len(list.Items))
	for _, o := range list.Items {
		namespace, name, err := nameOf(o.Metadata)
		if err != nil {
			return nil, err
		}
		// It is checked as it is when it is in the Service itself.
		in := serviceObject{Metadata: o.Metadata, Status: o.Status}
		in.Spec.Type = "LoadBalancer"
		if _, err := newService(in); err != nil {
			return nil, err
		}
		out[nameIn{namespace, name}] = o.Status
	}
	return out, nil
}

// withGrant is a Service with the status of the file, instead of its own.
func (s *Service) withGrant(status serviceStatus) *Service {
	out := *s
	in := serviceObject{Status: status}
	in.Spec.Type = "LoadBalancer"
	granted := Service{Type: in.Spec.Type}
	if granted.readAddresses(&in) != nil || granted.readBalancer(&in) != nil { // checked when it was read
		return s
	}
	if s.Type == "LoadBalancer" {
		out.LoadBalancerIPs = granted.LoadBalancerIPs
	}
	b := *granted.Balancer
	if s.Balancer != nil {
		b = *s.Balancer
		b.Condition = granted.Balancer.Condition
	}
	out.Balancer = &b
	return &out
}

// Elect runs lead whenever this daemon is the one of all on the folder that gives Services
// their load balancers' addresses, until ctx is done: the one that has the lock. When lead is
// called, what a former one wrote is in the state.
func (d *Dir) Elect(ctx context.Context, lead func(context.Context)) error {
	for ctx.Err() == nil {
		f, err := d.lockGrants()
		d.mu.Lock()
		d.electErr = err
		d.mu.Unlock()
		if f != nil {
			d.lead(ctx, f, lead)
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(electEvery):
		}
	}
	return nil
}

// lockGrants takes the lock; nil, if another has it, or the folder is not read yet.
func (d *Dir) lockGrants() (*os.File, error) {
	if !d.Snapshot().Complete {
		return nil, nil
	}
	if err := d.own.mkdir(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(d.grants.dir, grantsLock), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && !sameFile(f) {
		err = unix.EWOULDBLOCK // it was removed meanwhile
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

// sameFile says whether an open file is still the one that has its name.
func sameFile(f *os.File) bool {
	open, err := f.Stat()
	named, nameErr := os.Stat(f.Name())
	return err == nil && nameErr == nil && os.SameFile(open, named)
}

// lead runs lead as long as the lock is ours.
func (d *Dir) lead(ctx context.Context, lock *os.File, lead func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	d.setLock(lock)
	d.loadGrants()
	var work sync.WaitGroup
	work.Go(func() { lead(ctx) })
	for ctx.Err() == nil && sameFile(lock) {
		select {
		case <-ctx.Done():
		case <-time.After(electEvery):
		}
	}
	cancel()
	work.Wait()
	d.setLock(nil)
	lock.Close()
}

func (d *Dir) setLock(f *os.File) {
	d.grants.lock.Lock()
	defer d.grants.lock.Unlock()
	d.elected = f
}

// Grant writes the status of Services, for all daemons on the folder, and returns those that
// were written. One that was decided by a Service that is another by now is [ErrStale].
// Services that are gone are left out.
func (d *Dir) Grant(_ context.Context, list []Grant) (written []Grant, err error) {
	d.grants.lock.Lock()
	defer d.grants.lock.Unlock()
	if d.elected == nil || !sameFile(d.elected) {
		return nil, errNotElected
	}
	d.loadGrantsLocked()
	state := d.Snapshot()
	d.mu.Lock()
	status, err := maps.Clone(d.grants.status), d.grants.err
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	there := map[nameIn]*Service{}
	for _, s := range state.Services {
		there[nameIn{s.Namespace, s.Name}] = s
	}
	if status == nil {
		status = map[nameIn]serviceStatus{}
	}
	maps.DeleteFunc(status, func(n nameIn, _ serviceStatus) bool { return there[n] == nil })
	var errs []error
	for _, g := range list {
		n := nameIn{g.Service.Namespace, g.Service.Name}
		if now := there[n]; now == nil || !reflect.DeepEqual(now, g.Service) {
			errs = append(errs, fmt.Errorf("service %s/%s: %w", n.namespace, n.name, ErrStale))
			continue
		}
		written = append(written, g)
		if status[n] = statusOf(g); g.Condition.Reason == "" {
			delete(status, n)
		}
	}
	if err := d.writeGrants(status); err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	d.loadGrantsLocked()
	return written, errors.Join(errs...)
}

var errNotElected = errors.New("this daemon does not have the lock any more")

// statusOf is a decision as a Service's status.
func statusOf(g Grant) serviceStatus {
	c := conditionObject{Type: BalancerCondition, Status: "False", Reason: g.Condition.Reason, Message: g.Condition.Message}
	if g.Condition.True {
		c.Status = "True"
	}
	st := serviceStatus{Conditions: []conditionObject{c}}
	for _, ip := range g.IPs {
		st.LoadBalancer.Ingress = append(st.LoadBalancer.Ingress, ingressObject{IP: ip.String(), IPMode: "VIP"})
	}
	return st
}

// writeGrants puts the file in its place. It is made durable: Services shall have their
// addresses again when all nodes lost power.
func (d *Dir) writeGrants(status map[nameIn]serviceStatus) error {
	list := grantList{APIVersion: "v1", Kind: "ServiceList", Items: []grantObject{}}
	byName := func(a, b nameIn) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	}
	for _, n := range slices.SortedFunc(maps.Keys(status), byName) {
		list.Items = append(list.Items, grantObject{metadata{Name: n.name, Namespace: n.namespace}, status[n]})
	}
	data, err := json.MarshalIndent(list, "", " ")
	if err != nil { // strings only
		panic(err)
	}
	path := filepath.Join(d.grants.dir, grantsFile)
	temp := filepath.Join(d.grants.dir, "."+grantsFile+".tmp")
	err = writeDurable(temp, append(data, '\n'))
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return fmt.Errorf("write load balancers' addresses: %w", errors.Join(err, os.RemoveAll(temp)))
	}
	if dir, err := os.Open(d.grants.dir); err == nil {
		_ = dir.Sync() // not all file systems can
		dir.Close()
	}
	return nil
}

func writeDurable(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
