package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// A history by hand: each line has the time of the call, that of the return, and the operation with its answer.
func TestHistories(t *testing.T) {
	for _, test := range []struct {
		name, history string
		code          int
	}{
		{"one after the other", "0 1 put a done; 2 3 get a; 4 5 cas a b done; 6 7 cas a c refused b; 8 9 get b", 0},
		{"a key that does not exist", "0 1 get -; 2 3 cas x a refused -; 4 5 cas - b done; 6 7 get b", 0},
		{"at the same time, either order", "0 1 put a done; 2 9 put b done; 3 4 get b; 5 6 get b", 0},
		{"at the same time, then seen by another one", "0 1 put a done; 2 9 put b done; 3 4 get a; 5 6 get b", 0},
		{"an unknown put that took effect later", "0 1 put a done; 2 3 put b unknown; 4 5 get a; 6 7 get b", 0},
		{"an unknown put that never took effect", "0 1 put a done; 2 3 put b unknown; 4 5 get a; 6 7 get a", 0},
		{"an unknown put that was overwritten", "0 1 put a done; 2 3 put b unknown; 4 5 put c done; 6 7 get c", 0},
		{"an unknown put that only an unknown cas saw", "0 1 put a unknown; 2 3 cas a b unknown; 4 5 get b", 0},
		{"one after the other that nobody else saw", "0 1 put a unknown; 2 3 cas a b unknown; 4 5 cas b c unknown; 6 7 get c", 0},
		{"an unknown get", "0 1 put a done; 2 3 get unknown; 4 5 get a", 0},
		{"an unknown cas that took effect", "0 1 put a done; 2 3 cas a b unknown; 4 5 get b", 0},

		{"a stale read", "0 1 put a done; 2 3 put b done; 4 5 get a", 1},
		{"a lost write", "0 1 put a done; 2 3 get -", 1},
		{"a lost write, seen by a cas", "0 1 put a done; 2 3 put b done; 4 5 cas a c done", 1},
		{"a lost swap", "0 1 put a done; 2 3 cas a b done; 4 5 cas a c refused a", 1},
		{"two swaps of one value", "0 1 put a done; 2 8 cas a b done; 3 9 cas a c done", 1},
		{"a cas refused in spite of the expected value", "0 1 put a done; 2 3 cas a b refused a", 1},
		{"back to an older value", "0 1 put a done; 2 9 put b done; 3 4 get b; 5 6 get a", 1},
		{"a value that nobody wrote", "0 1 put a done; 2 3 get z", 1},
		{"a value before it was written", "0 1 get a; 2 3 put a done", 1},
		{"an unknown value before it was written", "0 1 get a; 2 3 put a unknown", 1},
		{"an unknown put that took effect and was lost", "0 1 put a done; 2 3 put b unknown; 4 5 get b; 6 7 get a", 1},
		{"an unknown put that took effect twice", "0 1 put a unknown; 2 3 get a; 4 5 put b done; 6 7 get a", 1},
		{"an unknown cas of a value that had gone", "0 1 put a done; 2 3 put b done; 4 5 cas a c unknown; 6 7 get c", 1},

		{"a value that is written twice", "0 1 put a done; 2 3 put a done", 2},
		{"a return before its call", "1 0 put a done", 2},
		{"another kind", "0 1 delete a done", 2},
		{"nothing", "", 2},
	} {
		out, code := checked(t, lines(t, test.history))
		if code != test.code {
			t.Errorf("%s: exit code %d instead of %d\n%s", test.name, code, test.code, out)
		}
	}
}

// Each key is a register of its own.
func TestKeys(t *testing.T) {
	one := lines(t, "0 1 put a done; 2 3 put b done; 4 5 get b")
	two := strings.ReplaceAll(lines(t, "0 1 put a done; 2 3 put b done; 4 5 get a; 6 7 put c unknown"), `"k"`, `"other"`)
	if out, code := checked(t, one); code != 0 || out != "3 operations on 1 keys, 0 unknown, linearizable\n" {
		t.Errorf("%d %s", code, out)
	}
	out, code := checked(t, one+two)
	if code != 1 || !strings.HasPrefix(out, "7 operations on 2 keys, 1 unknown, not linearizable\nother: ") {
		t.Errorf("%d %s", code, out)
	}
}

// What is printed of a long history is its shortest part that is wrong.
func TestExcerpt(t *testing.T) {
	var history []string
	for i := range 100 {
		history = append(history, fmt.Sprintf("%d %d put v%d done", 10*i, 10*i+1, i))
	}
	history = append(history, "802 803 get v50")
	out, code := checked(t, lines(t, strings.Join(history, ";")))
	if code != 1 || !strings.Contains(out, "explains\n  0.000001 to 0.000001 s  client 0  get: v50\nafter\n") {
		t.Errorf("%d %s", code, out)
	}
	if !strings.Contains(out, "put v50: done\n") || !strings.Contains(out, "put v79: done\n") || strings.Contains(out, "put v81") {
		t.Error(out)
	}
}

func TestFiles(t *testing.T) {
	if out, code := checked(t, "not JSON\n"); code != 2 {
		t.Errorf("%d %s", code, out)
	}
	if code := run(filepath.Join(t.TempDir(), "missing"), os.Stdout, os.Stdout); code != 2 {
		t.Error(code)
	}
}

// What the other operations tell about one without an answer changes no verdict: with histories at random it is the same as if each
// write without an answer returned at infinity.
func TestUnknownReturnsAtInfinity(t *testing.T) {
	infinite := register
	infinite.Step = func(state, input, output any) (bool, any) {
		op := input.(operation)
		if !op.Answered && (op.Kind == "put" || state == op.Expected) {
			return true, op.Value
		}
		if !op.Answered {
			return true, state
		}
		return register.Step(state, input, output)
	}
	random := rand.New(rand.NewSource(1))
	verdicts := map[porcupine.CheckResult]int{}
	for range 20000 {
		history := anyHistory(random)
		var operations []porcupine.Operation
		for _, op := range history {
			if !op.Answered {
				op.Return = 1 << 60
			}
			if op.Answered || op.Kind != "get" {
				operations = append(operations, porcupine.Operation{Input: op, Call: op.Call, Return: op.Return})
			}
		}
		expected := porcupine.CheckOperationsTimeout(infinite, operations, time.Minute)
		if verdict := check(history, time.Now().Add(time.Minute)); verdict != expected {
			t.Fatalf("%v instead of %v: %v", verdict, expected, history)
		}
		verdicts[expected]++
	}
	if verdicts[porcupine.Ok] < 2000 || verdicts[porcupine.Illegal] < 2000 {
		t.Error(verdicts)
	}
}

// anyHistory is a history of up to 9 operations by 3 clients, in which any answer is possible.
func anyHistory(random *rand.Rand) []operation {
	count := 1 + random.Intn(9)
	value := func() string { return []string{"", "a", "b", "c", "d", "e", "f", "g", "h", "i"}[random.Intn(count+1)] }
	var free [3]int64
	var history []operation
	for i := range count {
		client := random.Intn(len(free))
		call := free[client] + random.Int63n(4)
		op := operation{Client: client, Kind: []string{"get", "put", "cas"}[random.Intn(3)], Call: call, Return: call + random.Int63n(6)}
		free[client] = op.Return + 1
		op.Answered = random.Intn(3) > 0
		if op.Kind != "get" {
			op.Value = string(rune('a' + i))
		}
		if op.Kind == "cas" {
			op.Expected = value()
			op.Swapped = op.Answered && random.Intn(2) == 0
		}
		if op.Answered && op.Kind != "put" && !op.Swapped {
			op.Result = value()
		}
		history = append(history, op)
	}
	return history
}

// checked runs the check on a file with this text.
func checked(t *testing.T, text string) (string, int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "history")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	code := run(path, &out, &out)
	return out.String(), code
}

// lines is the file of a history that is written by hand. In it "-" is a key that does not exist.
func lines(t *testing.T, history string) string {
	t.Helper()
	var text strings.Builder
	for line := range strings.SplitSeq(history, ";") {
		words := strings.Fields(strings.ReplaceAll(line, "-", `""`))
		if len(words) == 0 {
			continue
		}
		op := operation{Key: "k", Kind: words[2], Answered: words[len(words)-1] != "unknown"}
		if _, err := fmt.Sscan(words[0]+" "+words[1], &op.Call, &op.Return); err != nil {
			t.Fatal(err)
		}
		value := func(i int) string { return strings.Trim(words[i], `"`) }
		switch op.Kind {
		case "get":
			if op.Answered {
				op.Result = value(3)
			}
		case "cas":
			op.Expected, op.Value, op.Swapped = value(3), value(4), words[5] == "done"
			if words[5] == "refused" {
				op.Result = value(6)
			}
		default:
			op.Value = value(3)
		}
		encoded, err := json.Marshal(op)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(append(encoded, '\n'))
	}
	return text.String()
}
