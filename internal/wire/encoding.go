package wire

import (
	"strconv"
	"strings"
)

// Content encodings.
const (
	Zstd = "zstd"
	Gzip = "gzip"
)

// NegotiateEncoding returns the encoding of a body for the given Accept-Encoding headers:
// Zstd or Gzip by the higher q, Zstd if they are equal, and "" if neither is listed by
// name.
func NegotiateEncoding(accept []string) string {
	q := map[string]float64{}
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		name, param, weighed := strings.Cut(part, ";")
		weight := 1.0
		if weighed {
			s, ok := strings.CutPrefix(strings.ReplaceAll(param, " ", ""), "q=")
			w, err := strconv.ParseFloat(s, 64)
			if !ok || err != nil || w < 0 || w > 1 {
				continue
			}
			weight = w
		}
		q[strings.ToLower(strings.TrimSpace(name))] = weight
	}
	switch zstd, gzip := q[Zstd], max(q[Gzip], q["x-gzip"]); {
	case zstd > 0 && zstd >= gzip:
		return Zstd
	case gzip > 0:
		return Gzip
	}
	return ""
}
