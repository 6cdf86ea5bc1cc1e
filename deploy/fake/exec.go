package fake

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Channels of the protocol v5.channel.k8s.io (KEP-4006): each message begins with one.
const (
	channelStdout = 1
	channelStderr = 2
	channelError  = 3
)

// exec answers /api/v1/namespaces/NAMESPACE/pods/POD/exec.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	refusal := 0
	message := ""
	if s.Refuse != nil {
		refusal, message = s.Refuse(r)
	}
	run := s.Exec
	s.mu.Unlock()
	if refusal == 0 && run == nil {
		refusal, message = http.StatusNotFound, "nothing is executed here"
	}
	if refusal != 0 {
		refuse(w, refusal, message)
		return
	}
	parts := strings.Split(r.URL.Path, "/")
	stdout, stderr, code := run(parts[len(parts)-2], r.URL.Query()["command"])

	upgrade := websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}, CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := upgrade.Upgrade(w, r, nil)
	if err != nil {
		return // it has answered
	}
	defer conn.Close()
	status := metav1.Status{Status: metav1.StatusSuccess}
	if code != 0 {
		status = metav1.Status{
			Status: metav1.StatusFailure, Reason: "NonZeroExitCode", Message: "command terminated with exit code " + strconv.Itoa(code),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "ExitCode", Message: strconv.Itoa(code)}}},
		}
	}
	end, err := json.Marshal(status)
	if err != nil {
		s.t.Errorf("encode the end of a command: %v", err)
		return
	}
	for _, m := range []struct {
		channel byte
		text    string
	}{{channelStdout, stdout}, {channelStderr, stderr}, {channelError, string(end)}} {
		if conn.WriteMessage(websocket.BinaryMessage, append([]byte{m.channel}, m.text...)) != nil {
			return // the client went away
		}
	}
	_ = conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")) // it may have gone
}
