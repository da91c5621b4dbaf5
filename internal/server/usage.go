package server

import (
	"net/http"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// getStorages lists how much the log holds of the storages of a topic: GET /storages.
func (s *Server) getStorages(w http.ResponseWriter, r *http.Request) *wire.Error {
	q, err := wire.ParseUsage(r.URL.RawQuery)
	if err != nil {
		return wire.Errorf(http.StatusBadRequest, "%v", err)
	}
	if problem := s.mayRead(w, q.Topic); problem != nil {
		return problem
	}
	head := s.log.HeadPoint()
	list, err := s.log.Usage(r.Context(), q.Topic, q.After, head.ID, q.Limit)
	if err != nil {
		return s.readProblem(r, err)
	}
	page := wire.UsagePage{Storages: []event.Usage{}, Next: list.Next.String(), Damaged: list.Damaged}
	for _, u := range list.Usages {
		if q.Folders {
			u = u.Folder(q.Topic)
		}
		page.Storages = event.AppendUsage(page.Storages, u)
	}
	s.setPosition(w.Header(), wire.HeaderHead, head)
	s.setPosition(w.Header(), wire.HeaderTo, head)
	return writeJSON(w, page)
}
