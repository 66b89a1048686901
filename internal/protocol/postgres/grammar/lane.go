package grammar

import (
	"container/list"
	"context"
	"sync"
)

// lane lets so many in at once. Who waits is let in by turns, one of each
// agent: an agent that asks a lot waits for itself.
type lane struct {
	mu     sync.Mutex
	free   int
	agents map[string]*list.List // of those who wait, the chan struct{} that lets one in
	turns  list.List             // the agents, the next one first
}

func newLane(places int) *lane {
	return &lane{free: places, agents: make(map[string]*list.List)}
}

// enter waits for a place, which leave gives back.
func (l *lane) enter(ctx context.Context, agent string) error {
	l.mu.Lock()
	if l.free > 0 {
		l.free--
		l.mu.Unlock()
		return nil
	}
	waiting := l.agents[agent]
	if waiting == nil {
		waiting = list.New()
		l.agents[agent] = waiting
		l.turns.PushBack(agent)
	}
	in := make(chan struct{})
	place := waiting.PushBack(in)
	l.mu.Unlock()
	select {
	case <-in:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	select {
	case <-in: // let in at the last moment
		l.mu.Unlock()
		l.leave()
	default:
		waiting.Remove(place) // an agent without any is dropped at its turn
		l.mu.Unlock()
	}
	return ctx.Err()
}

// tryEnter is enter for those who can't wait.
func (l *lane) tryEnter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free == 0 {
		return false
	}
	l.free--
	return true
}

func (l *lane) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := l.turns.Front(); e != nil; e = l.turns.Front() {
		agent := l.turns.Remove(e).(string)
		waiting := l.agents[agent]
		next := waiting.Front()
		if next != nil {
			close(waiting.Remove(next).(chan struct{}))
		}
		if waiting.Len() > 0 {
			l.turns.PushBack(agent)
		} else {
			delete(l.agents, agent)
		}
		if next != nil {
			return
		}
	}
	l.free++
}

// wanted reports whether somebody waits.
func (l *lane) wanted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.turns.Len() > 0
}
