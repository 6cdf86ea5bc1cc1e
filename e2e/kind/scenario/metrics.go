package scenario

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weft/e2e/kind/cluster"
)

// histogram is a histogram of Prometheus.
type histogram struct {
	bounds []float64 // upper ones, in seconds, ascending
	counts []int     // of values up to each
	count  int
}

// bucket is one line of the daemon's histogram of CNI calls: verb, bound, count.
var bucket = regexp.MustCompile(`^weft_cni_duration_seconds_bucket\{verb="(\w+)",le="([^"]+)"\} (\d+)$`)

// histogramOf is how long a node's daemon took for CNI calls of a verb.
func histogramOf(ctx context.Context, c *cluster.Cluster, node, verb string) (histogram, error) {
	out, err := shell(ctx, c, node, "curl --silent --fail --max-time 10 --unix-socket /run/weft/weftd.sock http://weft/metrics")
	if err != nil {
		return histogram{}, fmt.Errorf("read metrics: %w", err)
	}
	return parseHistogram(out, verb)
}

func parseHistogram(metrics, verb string) (histogram, error) {
	var h histogram
	for lines := bufio.NewScanner(strings.NewReader(metrics)); lines.Scan(); {
		m := bucket.FindStringSubmatch(lines.Text())
		if m == nil || m[1] != verb {
			continue
		}
		bound, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return histogram{}, fmt.Errorf("read metrics: %w", err)
		}
		n, err := strconv.Atoi(m[3])
		if err != nil {
			return histogram{}, fmt.Errorf("read metrics: %w", err)
		}
		h.bounds, h.counts, h.count = append(h.bounds, bound), append(h.counts, n), n
	}
	return h, nil
}

// less is what came after before.
func (h histogram) less(before histogram) histogram {
	if len(before.counts) != len(h.counts) { // there was none
		return h
	}
	h.counts = slices.Clone(h.counts)
	for i := range h.counts {
		h.counts[i] -= before.counts[i]
	}
	h.count -= before.count
	return h
}

// quantile is the bound of the bucket in which a quantile lies, as text: it says no more.
func (h histogram) quantile(q float64) string {
	for i, n := range h.counts {
		if float64(n) < q*float64(h.count) {
			continue
		}
		if math.IsInf(h.bounds[i], 1) {
			return fmt.Sprintf("over %s", seconds(h.bounds[i-1]))
		}
		return fmt.Sprintf("at most %s", seconds(h.bounds[i]))
	}
	return "unknown"
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
