package overlay

// Neighbours is the target of permanent neighbour entries on devices of ours.
type Neighbours struct{}

// NewNeighbours takes the devices whose name ours approves.
func NewNeighbours(ours func(link string) bool) *Neighbours { return &Neighbours{} }

func (n *Neighbours) Dump() (map[NeighKey]NeighMAC, error) { return nil, nil }
func (n *Neighbours) Set(NeighKey, NeighMAC) error         { return nil }
func (n *Neighbours) Delete(NeighKey) error                { return nil }
