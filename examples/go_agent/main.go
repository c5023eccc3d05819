// An agent written by hand: the minimal profile of the contract, with generated stubs and no SDK.
//
// It registers, opens one Work stream, beats, counts the words of each task, and keeps a result until the mesh has
// acknowledged it, over broken connections too. `make polyglot-check` builds it and has it complete a task.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	mesh "agentmesh/gen/agentmesh/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

const taskType = "word-count"

// agent is one session: what RegisterAgent gave it, and what it holds.
type agent struct {
	scheduler mesh.SchedulerServiceClient
	id        string
	session   *mesh.RegisterAgentResponse
	streamSeq int64                 // rises with every stream; the mesh listens to the highest
	results   map[string]*mesh.Done // by fence: finished, not yet acknowledged
}

func main() {
	address, token, id := os.Getenv("AGENTMESH_ADDRESS"), os.Getenv("AGENTMESH_TOKEN"), os.Getenv("AGENTMESH_AGENT_ID")
	// Plaintext never leaves this host; to another one, use credentials.NewClientTLSFromFile.
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token)
	sessionKey := make([]byte, 16) // makes a repeated RegisterAgent the same session
	rand.Read(sessionKey)
	session, err := mesh.NewRegistryServiceClient(connection).RegisterAgent(ctx, &mesh.RegisterAgentRequest{
		Spec: &mesh.AgentSpec{
			AgentId: id, Type: mesh.AgentType_AGENT_TYPE_WORKER, Capabilities: []string{taskType}, Slots: 1,
		},
		SessionKey: sessionKey,
	})
	if err != nil {
		log.Fatal(err)
	}
	self := &agent{
		scheduler: mesh.NewSchedulerServiceClient(connection), id: id, session: session,
		results: map[string]*mesh.Done{},
	}
	for {
		log.Printf("the stream ended: %v", self.work(ctx))
		time.Sleep(session.Limits.MaxReconnectBackoff.AsDuration() / 2)
	}
}

// work opens a stream and serves it until it ends.
func (a *agent) work(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.scheduler.Work(ctx)
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
				go beat(ctx, frame.Opened.Limits.BeatInterval.AsDuration(), send)
			case *mesh.MeshFrame_Assign:
				done := handle(frame.Assign)
				a.results[string(done.Fence)] = done
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

// beat proves that the agent lives, at the pace the mesh prescribes.
func beat(ctx context.Context, interval time.Duration, send func(...*mesh.AgentFrame) error) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for seq := int64(1); ; seq++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if send(&mesh.AgentFrame{Frame: &mesh.AgentFrame_Beat{Beat: &mesh.Beat{Seq: seq}}}) != nil {
				return
			}
		}
	}
}
