package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

// register is the model of one key. Its state is the value of the key.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		held, op := state.(string), input.(operation)
		switch {
		case op.Kind == "put":
			return true, op.Value
		case op.Kind == "cas" && op.Swapped:
			return held == op.Expected, op.Value
		case op.Kind == "cas":
			return held == op.Result && held != op.Expected, held
		default:
			return held == op.Result, held
		}
	},
}

// check checks the operations on one key.
func check(history []operation, deadline time.Time) porcupine.CheckResult {
	var operations []porcupine.Operation
	for _, op := range settled(history) {
		operations = append(operations, porcupine.Operation{ClientId: op.Client, Input: op, Call: op.Call, Return: op.Return})
	}
	// A limit of 0 would be none.
	return porcupine.CheckOperationsTimeout(register, operations, max(time.Until(deadline), 1))
}

// settled is a history on one key in which the operations without an answer are replaced by what the others tell about them.
//
// A write without an answer would return at infinity: the search would try it after every other operation, which takes exponential
// time. But each value is written once, so a write whose value was seen has taken effect, before the first operation that saw the
// value returned. A write whose value was never seen can be left out: if it took effect, nothing but a put comes between it and the
// next write, because every other operation tells what it saw. A get without an answer tells nothing.
func settled(history []operation) []operation {
	// For each value the first return of an operation that saw it.
	seen := map[string]int64{}
	see := func(value string, at int64) bool {
		if before, is := seen[value]; is && before <= at {
			return false
		}
		seen[value] = at
		return true
	}
	for _, op := range history {
		if value, tells := op.saw(); tells && op.Answered {
			see(value, op.Return)
		}
	}
	// A cas that has taken effect saw the value that it expected.
	for again := true; again; {
		again = false
		for _, op := range history {
			if at, is := seen[op.Value]; is && op.Kind == "cas" && !op.Answered && see(op.Expected, at) {
				again = true
			}
		}
	}
	var all []operation
	for _, op := range history {
		if !op.Answered {
			at, is := seen[op.Value]
			if op.Kind == "get" || !is {
				continue
			}
			// A value that was seen before it was written stays a violation.
			op.Answered, op.Swapped, op.Return = true, op.Kind == "cas", max(op.Call, at)
		}
		all = append(all, op)
	}
	return all
}

// until is a history as it was at a time: what had not returned has no answer.
func until(history []operation, at int64) []operation {
	var all []operation
	for _, op := range history {
		if op.Call > at {
			continue
		}
		if op.Return > at {
			op.Answered, op.Swapped, op.Result, op.Return = false, false, "", at
		}
		all = append(all, op)
	}
	return all
}

// shown is how many of the last operations are printed.
const shown = 10

// explain prints the end of the shortest history on a key that is not linearizable. Its last answer is the one that is wrong, or
// that shows that an earlier one was.
func explain(out io.Writer, key string, history []operation, deadline time.Time) {
	var returns []int64
	for _, op := range history {
		if op.Answered {
			returns = append(returns, op.Return)
		}
	}
	slices.Sort(returns)
	// A longer history is not linearizable either.
	first := sort.Search(len(returns)-1, func(i int) bool {
		return check(until(history, returns[i]), deadline) == porcupine.Illegal
	})
	shortest := until(history, returns[first])
	slices.SortStableFunc(shortest, func(a, b operation) int { return cmp.Compare(a.Return, b.Return) })
	last := slices.IndexFunc(shortest, func(op operation) bool { return op.Answered && op.Return == returns[first] })
	fmt.Fprintf(out, "%s: no order of its operations explains\n  %v\nafter\n", key, shortest[last])
	value, tells := shortest[last].saw()
	for i, op := range shortest {
		wrote := tells && op.Kind != "get" && op.Value == value
		if i != last && (wrote || i >= len(shortest)-1-shown) {
			fmt.Fprintf(out, "  %v\n", op)
		}
	}
}
