package event

import "strings"

// A Usage is how much a log holds of a storage or of a folder, which is all storages below a
// path or all of a user.
type Usage struct {
	User string `json:"user"`
	// Path is the path of a storage, the path of a folder with a slash at its end, or empty
	// for the folder of a user.
	Path     string `json:"path"`
	Storages int64  `json:"storages,omitempty"` // in the folder; 0 for a storage
	Count    int64  `json:"count"`              // events
	Bytes    int64  `json:"bytes"`              // of the events' lines, each with its line feed
	First    ID     `json:"first"`              // the first event
	Last     ID     `json:"last"`               // the last event
	Time     Time   `json:"time,omitzero"`      // of the last event; 0 if it is not known
	Type     Type   `json:"type,omitempty"`     // of the last event of a storage; "" if it is not known
	// Damaged reports that events are damaged: those that are counted may not be all.
	Damaged bool `json:"damaged,omitempty"`
}

// A UsageList is a part of the usages of a topic, in the order of users and paths.
type UsageList struct {
	Usages []Usage
	// Next is the storage after which the list continues, or zero if this is its end.
	Next Storage
	// Damaged reports that events are damaged of which it is not known to what storage
	// they belong: any number may be too low.
	Damaged bool
}

// IsFolder reports whether u is of a folder.
func (u *Usage) IsFolder() bool { return u.Path == "" || strings.HasSuffix(u.Path, "/") }

// Name returns the name of the storage or folder, such as alice/posts/1, alice/posts/ or
// alice/.
func (u *Usage) Name() string { return u.User + "/" + u.Path }

// Compare compares names by the bytes of the users, then by those of the paths.
func (u *Usage) Compare(v *Usage) int {
	return Storage{u.User, u.Path}.Compare(Storage{v.User, v.Path})
}

// Folder returns the usage of the folder of topic that contains the storage of u, or u if it
// is in none. The folders of All are users. Those of any other topic are one level below its
// path.
func (u Usage) Folder(topic Topic) Usage {
	if topic == All {
		u.Path = ""
		return u.asFolder()
	}
	below := len(topic.path)
	if topic.kind == Subtree && len(u.Path) > below {
		below++ // the slash
	}
	if below > len(u.Path) {
		return u // of another topic
	}
	if i := strings.IndexByte(u.Path[below:], '/'); i >= 0 {
		u.Path = u.Path[:below+i+1]
		return u.asFolder()
	}
	return u
}

func (u Usage) asFolder() Usage {
	u.Storages, u.Type = 1, ""
	return u
}

// AppendUsage appends u to list. If u is of the same folder as the last element, it is added
// to that one.
func AppendUsage(list []Usage, u Usage) []Usage {
	if len(list) == 0 {
		return append(list, u)
	}
	last := &list[len(list)-1]
	if !u.IsFolder() || last.User != u.User || last.Path != u.Path {
		return append(list, u)
	}
	if u.Count > 0 {
		if last.Count == 0 || u.First < last.First {
			last.First = u.First
		}
		if u.Last > last.Last {
			last.Last, last.Time = u.Last, u.Time
		}
	}
	last.Storages += u.Storages
	last.Count += u.Count
	last.Bytes += u.Bytes
	last.Damaged = last.Damaged || u.Damaged
	return list
}
