package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
)

// party is who is measured.
type party int

const (
	weft party = iota
	limit
	peer
	parties
)

// result is one line of the report. Absent values are null.
type result struct {
	Metric       string   `json:"metric"`
	Unit         string   `json:"unit"`
	Weft         *float64 `json:"weft"`
	Limit        *float64 `json:"limit"`
	Peer         *float64 `json:"peer"`
	PeerName     *string  `json:"peer_name"`
	WeftPerLimit *float64 `json:"weft_per_limit"`
	WeftPerPeer  *float64 `json:"weft_per_peer"`
	Rounds       int      `json:"rounds"`
}

// report prints a table and writes the JSON lines as they come.
type report struct {
	w     io.Writer
	file  *os.File
	lines int
}

func newReport(w io.Writer, path string) (*report, error) {
	r := &report{w: w}
	if path == "" {
		return r, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create results: %w", err)
	}
	r.file = f
	return r, nil
}

func (r *report) close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

// add reports one metric: the median of each party's rounds.
func (r *report) add(metric, unit, peerName string, rounds [parties][]float64) error {
	return r.print(result{
		Metric: metric, Unit: unit,
		Weft: median(rounds[weft]), Limit: median(rounds[limit]), Peer: median(rounds[peer]),
		Rounds: len(rounds[weft]),
	}, peerName)
}

// addOf reports one metric whose values are known; it has no limit.
func (r *report) addOf(metric, unit, peerName string, rounds int, weft, peer float64) error {
	return r.print(result{Metric: metric, Unit: unit, Weft: &weft, Peer: &peer, Rounds: rounds}, peerName)
}

func (r *report) print(res result, peerName string) error {
	res.WeftPerLimit, res.WeftPerPeer = ratio(res.Weft, res.Limit), ratio(res.Weft, res.Peer)
	if res.Peer != nil {
		res.PeerName = &peerName
	}
	if r.lines == 0 {
		fmt.Fprintf(r.w, "%-24s %-6s %11s %11s %11s %11s %11s  %s\n",
			"metric", "unit", "weft", "limit", "peer", "weft/limit", "weft/peer", "peer")
	}
	r.lines++
	fmt.Fprintf(r.w, "%-24s %-6s %11s %11s %11s %11s %11s  %s\n", res.Metric, res.Unit,
		number(res.Weft), number(res.Limit), number(res.Peer), number(res.WeftPerLimit), number(res.WeftPerPeer), peerName)
	if r.file == nil {
		return nil
	}
	b, err := json.Marshal(res)
	if err != nil {
		return err
	}
	if _, err := r.file.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// median is nil of no values.
func median(v []float64) *float64 { return quantile(v, 0.5) }

// quantile is the value at q of the sorted values, between two if it must be.
func quantile(v []float64, q float64) *float64 {
	if len(v) == 0 {
		return nil
	}
	s := slices.Sorted(slices.Values(v))
	at := q * float64(len(s)-1)
	low := int(at)
	got := s[low]
	if low+1 < len(s) {
		got += (at - float64(low)) * (s[low+1] - s[low])
	}
	return &got
}

func ratio(a, b *float64) *float64 {
	if a == nil || b == nil || *b == 0 {
		return nil
	}
	r := *a / *b
	return &r
}

func number(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case math.Abs(*v) >= 1000:
		return fmt.Sprintf("%.0f", *v)
	case math.Abs(*v) >= 100:
		return fmt.Sprintf("%.1f", *v)
	}
	return fmt.Sprintf("%.3f", *v)
}
