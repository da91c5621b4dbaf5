package natslog

import "testing"

// A node that starts while another one has its name says so. A node with a name of its own does not.
func TestNamesake(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	first := startNode(t, newPatientConfig(t, url, "a"), func(l *Log) {
		l.Introduce(func() About { return About{URL: "http://first"} })
	})
	first.mustAppend(draft("p", "x"))
	var w witness
	cfg := newPatientConfig(t, url, "a")
	cfg.OnNews = w.note
	startNode(t, cfg, func(l *Log) { l.nodesWait, l.namesakeWait = testPatience, testPatience })
	await(t, "the later node says so", func() bool {
		return w.count("another node has the name a, too, at http://first") == 1
	})
	other := startNode(t, newPatientConfig(t, url, "b"), nil)
	awaitHead(t, 1, other)
	if found, err := other.log.namesake(t.Context()); found != nil || err != nil {
		t.Errorf("the namesake of b is %+v, %v", found, err)
	}
}
