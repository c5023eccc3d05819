// An agent written by hand: the minimal profile of the contract, with generated stubs and no SDK.
//
// It registers, opens one Work stream, beats, counts the words of each task, and keeps a result until the mesh has
// acknowledged it, over broken connections too. When its session was lost it begins another; when another process took
// its place, or its token has ended, it stops and says so; on SIGTERM or Ctrl-C it says Bye. `make polyglot-check` builds
// it and has it complete tasks.
package main

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log"
	"math/rand"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	mesh "agentmesh/gen/agentmesh/v1"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const taskType = "word-count"

// agent is one process and what it holds; its session is what RegisterAgent gave it, nil before the first.
type agent struct {
	id        string
	session   *mesh.RegisterAgentResponse
	lost      string                // the session that is over, until there is another
	key       []byte                // makes a repeated RegisterAgent the same session
	streamSeq int64                 // rises with every stream of a session; the mesh listens to the highest
	results   map[string]*mesh.Done // by fence: finished, not yet acknowledged
}

// pings find a connection that died without a word: without them the agent would wait on it for ever.
var pings = keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}

// errReplaced ends the agent: two processes with one id would take turns for ever.
var errReplaced = errors.New("another process runs as this agent: give each its own id")

func main() {
	address, token := os.Getenv("AGENTMESH_ADDRESS"), os.Getenv("AGENTMESH_TOKEN")
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token)
	ctx, end := context.WithCancel(ctx)
	leaving, _ := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(leaving, func() { time.AfterFunc(3*time.Second, end) }) // for a mesh that does not answer Bye
	self := &agent{id: os.Getenv("AGENTMESH_AGENT_ID"), key: newKey(), results: map[string]*mesh.Done{}}
	for {
		err := self.live(ctx, leaving, address)
		log.Printf("the stream ended: %v", err)
		if leaving.Err() != nil {
			return
		}
		switch {
		case reason(err) == "SESSION_NOT_FOUND" && self.session != nil:
			self.lost, self.session, self.key, self.streamSeq = self.session.SessionId, nil, newKey(), 0
		case errors.Is(err, errReplaced), reason(err) == "STREAM_SUPERSEDED":
			log.Fatal(errReplaced)
		case status.Code(err) == codes.Unauthenticated:
			// One that lives longer joins with a key of its own, and renews its token by that.
			log.Fatal("the token is not accepted, or not any more: get another by meshctl auth")
		}
		switch status.Code(err) {
		case codes.PermissionDenied, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.OutOfRange, codes.Unimplemented:
			log.Fatal("trying again would not help")
		}
		backoff := time.Second
		if self.session != nil {
			backoff = self.session.Limits.MaxReconnectBackoff.AsDuration()
		}
		select {
		case <-leaving.Done():
			return
		case <-time.After(part(backoff, 0)):
		}
	}
}

// part is a random part of a pause, at least this share: a fleet must not move in step.
func part(pause time.Duration, least float64) time.Duration {
	return time.Duration((least + (1-least)*rand.Float64()) * float64(pause))
}

// live connects, registers unless there is a session, and serves one stream until it ends.
func (a *agent) live(ctx, leaving context.Context, address string) error {
	// A new channel each time: gRPC's own backoff may reconnect too late.
	// Plaintext never leaves this host; to another one, use credentials.NewClientTLSFromFile.
	connection, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithKeepaliveParams(pings))
	if err != nil {
		return err
	}
	defer connection.Close()
	if a.session == nil {
		if err := a.register(ctx, mesh.NewRegistryServiceClient(connection)); err != nil {
			return err
		}
	}
	return a.work(ctx, leaving, mesh.NewSchedulerServiceClient(connection))
}

// register begins a session, unless the agent lost its last one to another process.
func (a *agent) register(ctx context.Context, registry mesh.RegistryServiceClient) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if a.lost != "" {
		known, err := registry.GetAgent(ctx, &mesh.GetAgentRequest{AgentId: a.id})
		// A mesh restored from a backup may not know the agent; then nobody took its place.
		if err != nil && reason(err) != "AGENT_NOT_FOUND" {
			return err
		}
		if other := known.GetAgent().GetSessionId(); other != "" && other != a.lost {
			switch known.Agent.Health {
			case mesh.Health_HEALTH_HEALTHY, mesh.Health_HEALTH_SUSPECT, mesh.Health_HEALTH_DEAF, mesh.Health_HEALTH_DRAINING:
				return errReplaced
			}
		}
	}
	session, err := registry.RegisterAgent(ctx, &mesh.RegisterAgentRequest{
		Spec: &mesh.AgentSpec{
			AgentId: a.id, Type: mesh.AgentType_AGENT_TYPE_WORKER, Capabilities: []string{taskType}, Slots: 1,
		},
		SessionKey: a.key,
	})
	if err == nil {
		a.session, a.lost = session, ""
	}
	return err
}

func newKey() []byte {
	key := make([]byte, 16)
	crand.Read(key)
	return key
}

// reason names why the mesh refused a call; programs decide by it, never by the text.
func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	return ""
}

// work opens a stream and serves it until it ends; when the agent is to leave, it says Bye and the mesh ends the stream.
func (a *agent) work(ctx, leaving context.Context, scheduler mesh.SchedulerServiceClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := scheduler.Work(ctx)
	if err != nil {
		return err
	}
	var sending sync.Mutex // beats and results come from two goroutines
	send := func(frames ...*mesh.AgentFrame) error {
		sending.Lock()
		defer sending.Unlock()
		return stream.Send(&mesh.WorkRequest{Frames: frames})
	}
	a.streamSeq++
	open := &mesh.Open{
		AgentId: a.id, SessionId: a.session.SessionId, ResumeToken: a.session.ResumeToken,
		StreamSeq: a.streamSeq, Protocol: 1, // no features: the minimal profile
	}
	for fence := range a.results {
		open.Held = append(open.Held, &mesh.HeldAttempt{
			Fence: []byte(fence), Phase: mesh.HeldPhase_HELD_PHASE_RESULT_PENDING,
		})
	}
	if err := send(&mesh.AgentFrame{Frame: &mesh.AgentFrame_Open{Open: open}}); err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, frame := range message.Frames {
			switch frame := frame.Frame.(type) {
			case *mesh.MeshFrame_Opened:
				for _, fence := range frame.Opened.Drop {
					delete(a.results, string(fence))
				}
				for _, done := range a.results {
					if err := send(&mesh.AgentFrame{Frame: &mesh.AgentFrame_Done{Done: done}}); err != nil {
						return err
					}
				}
				go beat(ctx, leaving, frame.Opened.Limits.BeatInterval.AsDuration(), send)
			case *mesh.MeshFrame_Assign:
				done, known := a.results[string(frame.Assign.Fence)]
				if !known { // else it is told again: answer as before, do not start it twice
					done = handle(frame.Assign)
					a.results[string(done.Fence)] = done
				}
				if err := send(&mesh.AgentFrame{Frame: &mesh.AgentFrame_Done{Done: done}}); err != nil {
					return err
				}
			case *mesh.MeshFrame_Ack: // durable: it may be forgotten
				delete(a.results, string(frame.Ack.Fence))
			case *mesh.MeshFrame_Revoke: // somebody else's by now
				delete(a.results, string(frame.Revoke.Fence))
			}
		}
	}
}

// handle does the work. One that takes longer than a beat belongs into a goroutine of its own.
func handle(task *mesh.Assign) *mesh.Done {
	count := len(strings.Fields(string(task.Payload.GetInline())))
	return &mesh.Done{Fence: task.Fence, Output: &mesh.Payload{
		Content: &mesh.Payload_Inline{Inline: []byte(fmt.Sprint(count))}, MediaType: "application/json",
	}}
}

// beat proves that the agent lives, at the pace the mesh prescribes, until it leaves: what it still holds then goes to
// others at once, and does not count as lost.
func beat(ctx, leaving context.Context, interval time.Duration, send func(...*mesh.AgentFrame) error) {
	for seq := int64(1); ; seq++ {
		select {
		case <-ctx.Done():
			return
		case <-leaving.Done():
			send(&mesh.AgentFrame{Frame: &mesh.AgentFrame_Bye{Bye: &mesh.Bye{Reason: "told to end"}}})
			return
		case <-time.After(part(interval, 0.8)):
			if send(&mesh.AgentFrame{Frame: &mesh.AgentFrame_Beat{Beat: &mesh.Beat{Seq: seq}}}) != nil {
				return
			}
		}
	}
}
