package event

// An Origin says where a log has an event from. The zero Origin is that of an event which
// its author has appended to this log.
type Origin struct {
	Source string // the name of the source, "" if there is none
	Log    string // the id of the log that the source is, "" if it is none
	ID     string // what the source calls the event; "" if the log has made it for the source
}
