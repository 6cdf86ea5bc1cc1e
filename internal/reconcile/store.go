package reconcile

import "hash/maphash"

// store is rows by key, in a half to a third of the room that a map of Go's takes: those of
// Services are hundreds of thousands, and a map that has grown is half empty. It finds them
// by open addressing, from a table of 4 bytes an entry into rows that stay where they are.
type store[K, V comparable] struct {
	seed   maphash.Seed
	index  []uint32 // 1 + the place of a row; 0: none. Its length is a power of two
	chunks [][]row[K, V]
	free   []uint32 // places of rows that are gone
	used   uint32   // places that ever had a row
	count  int
}

// row is a row that is wanted. If it is not pending the target is believed to hold it,
// and Refresh saw it last in that round.
type row[K, V comparable] struct {
	key   K
	value V
	owner uint32 // index in Table.names; 0: no row
	round uint32
}

const (
	// chunkRows is how many rows are allocated together. The first chunk grows to that.
	chunkRows = 512
	// leastIndex is the smallest index.
	leastIndex = 8
)

func newStore[K, V comparable]() store[K, V] {
	return store[K, V]{seed: maphash.MakeSeed(), index: make([]uint32, leastIndex)}
}

// at is the row in a place. The pointer holds until put is called.
func (s *store[K, V]) at(place uint32) *row[K, V] {
	return &s.chunks[place/chunkRows][place%chunkRows]
}

// slot is where the index has a key, or where it would be put.
func (s *store[K, V]) slot(k K) int {
	mask := len(s.index) - 1
	for i := int(maphash.Comparable(s.seed, k)) & mask; ; i = (i + 1) & mask {
		if at := s.index[i]; at == 0 || s.at(at-1).key == k {
			return i
		}
	}
}

// get is the row of a key, which may be changed but for its key; nil: there is none. The
// pointer holds until put is called.
func (s *store[K, V]) get(k K) *row[K, V] {
	if at := s.index[s.slot(k)]; at != 0 {
		return s.at(at - 1)
	}
	return nil
}

// place is where the row of a key is; false: there is none.
func (s *store[K, V]) place(k K) (uint32, bool) {
	at := s.index[s.slot(k)]
	return at - 1, at != 0
}

// put makes r the row of its key, and returns its place.
func (s *store[K, V]) put(r row[K, V]) uint32 {
	i := s.slot(r.key)
	if at := s.index[i]; at != 0 {
		*s.at(at - 1) = r
		return at - 1
	}
	if s.count++; s.count > len(s.index)/4*3 {
		s.grow()
		i = s.slot(r.key)
	}
	place := s.used
	if n := len(s.free); n > 0 {
		place, s.free = s.free[n-1], s.free[:n-1]
		*s.at(place) = r
	} else {
		s.append(r)
	}
	s.index[i] = place + 1
	return place
}

func (s *store[K, V]) append(r row[K, V]) {
	last := len(s.chunks) - 1
	if s.used%chunkRows == 0 {
		var room []row[K, V]
		if last >= 0 {
			room = make([]row[K, V], 0, chunkRows)
		}
		s.chunks = append(s.chunks, room)
		last++
	}
	s.chunks[last] = append(s.chunks[last], r)
	s.used++
}

func (s *store[K, V]) grow() {
	s.index = make([]uint32, 2*len(s.index))
	for place := range s.used {
		if r := s.at(place); r.owner != 0 {
			s.index[s.slot(r.key)] = place + 1
		}
	}
}

// remove removes the row of a key; it succeeds if there is none.
func (s *store[K, V]) remove(k K) {
	i, mask := s.slot(k), len(s.index)-1
	at := s.index[i]
	if at == 0 {
		return
	}
	*s.at(at - 1) = row[K, V]{}
	s.free = append(s.free, at-1)
	s.index[i] = 0
	s.count--
	// What stands behind and was put off from here moves up, or it would not be found.
	for j := (i + 1) & mask; s.index[j] != 0; j = (j + 1) & mask {
		home := int(maphash.Comparable(s.seed, s.at(s.index[j]-1).key)) & mask
		if (j-home)&mask >= (j-i)&mask {
			s.index[i], s.index[j] = s.index[j], 0
			i = j
		}
	}
}

// all calls f with each row. f may change it but for its key, and not put or remove any.
func (s *store[K, V]) all(f func(*row[K, V])) {
	for _, rows := range s.chunks {
		for i := range rows {
			if rows[i].owner != 0 {
				f(&rows[i])
			}
		}
	}
}
