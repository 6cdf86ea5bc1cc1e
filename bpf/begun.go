package bpf

// Begun is how many flows began at a place and got a backend, since its row was written: a
// change of what serves the place, or of the map's form, begins at 0 again. A place that
// is not served has begun none.
func (d *Datapath) Begun(at Place) (uint64, error) {
	key := weftFrontendKey{Addr: toAddr(at.Addr), Port: at.Port, Proto: uint8(at.Protocol)}
	row, _, err := get[weftFrontendKey, weftFrontend](d, weftMapFrontends, key)
	return row.Begun, err
}
