package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// operation is an operation of a client on a key. The value "" means that the key does not exist.
type operation struct {
	Client int
	Kind   string // get, put or cas, which is compare-and-swap
	Key    string
	// Value is what a put or a cas writes. Each is written once.
	Value string
	// Expected is what a cas compares the value of the key with.
	Expected string
	// Answered is false if the outcome is unknown: it may have taken effect at any time after the call, or never.
	Answered bool
	// Swapped is whether a cas wrote its value.
	Swapped bool
	// Result is the value of the key, as a get or a cas that did not swap returned it.
	Result string
	// Call and Return are in nanoseconds of one monotonic clock.
	Call, Return int64
}

// read reads and checks a history.
func read(path string) ([]operation, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var history []operation
	written := map[[2]string]bool{}
	lines := bufio.NewScanner(file)
	for number := 1; lines.Scan(); number++ {
		op, err := parse(lines.Text())
		if err == nil && op.Kind != "get" {
			if written[[2]string{op.Key, op.Value}] {
				err = fmt.Errorf("%s is written twice", op.Value)
			}
			written[[2]string{op.Key, op.Value}] = true
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		history = append(history, op)
	}
	if lines.Err() == nil && len(history) == 0 {
		return nil, errors.New("it has no operations")
	}
	return history, lines.Err()
}

func parse(line string) (op operation, err error) {
	decoder := json.NewDecoder(strings.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&op); err != nil {
		return op, err
	}
	switch {
	case !slices.Contains([]string{"get", "put", "cas"}, op.Kind):
		return op, fmt.Errorf("%q is not a kind of operations", op.Kind)
	case op.Key == "":
		return op, errors.New("it has no key")
	case (op.Value == "") != (op.Kind == "get"):
		return op, errors.New("a put and a cas have a value, a get has none")
	case op.Call < 0 || op.Return < op.Call:
		return op, errors.New("it returned before it was called")
	}
	return op, nil
}

// byKey returns the keys in order, and the operations on each.
func byKey(history []operation) ([]string, map[string][]operation) {
	var keys []string
	of := map[string][]operation{}
	for _, op := range history {
		if of[op.Key] == nil {
			keys = append(keys, op.Key)
		}
		of[op.Key] = append(of[op.Key], op)
	}
	slices.Sort(keys)
	return keys, of
}

// saw returns the value that the key had before the operation took effect, if the operation tells it.
func (op operation) saw() (string, bool) {
	switch {
	case op.Kind == "put":
		return "", false
	case op.Swapped:
		return op.Expected, true
	default:
		return op.Result, true
	}
}

// String is the operation with its answer.
func (op operation) String() string {
	name := func(value string) string {
		if value == "" {
			return "nothing"
		}
		return value
	}
	var text string
	switch op.Kind {
	case "get":
		text = "get"
	case "put":
		text = "put " + op.Value
	case "cas":
		text = "cas " + name(op.Expected) + " to " + op.Value
	}
	switch {
	case !op.Answered:
		text += ": unknown"
	case op.Kind == "get":
		text += ": " + name(op.Result)
	case op.Kind == "put" || op.Swapped:
		text += ": done"
	default:
		text += ": refused, it is " + name(op.Result)
	}
	at := func(nanoseconds int64) string { return fmt.Sprintf("%.6f", time.Duration(nanoseconds).Seconds()) }
	return fmt.Sprintf("%s to %s s  client %d  %s", at(op.Call), at(op.Return), op.Client, text)
}
