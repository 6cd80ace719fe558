// Command linearizability checks whether a history of operations on keys is linearizable: whether each operation can have taken
// effect at one moment between its call and its return, as if there were one copy of each key.
//
//	linearizability FILE
//
// Each line of FILE is an operation as JSON, as tests/clients/history.rs writes it. The exit code is 1 if the history is not
// linearizable, and 2 if that is not known: FILE cannot be used, or the check takes too long.
package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/anishathalye/porcupine"
)

// limit is how long a check may take. Histories of the tests take well below a second.
const limit = 60 * time.Second

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: linearizability FILE")
		os.Exit(2)
	}
	os.Exit(run(os.Args[1], os.Stdout, os.Stderr))
}

// run checks the history in a file, prints the result and returns the exit code.
func run(path string, out, errors io.Writer) int {
	history, err := read(path)
	if err != nil {
		fmt.Fprintf(errors, "%s: %v\n", path, err)
		return 2
	}
	keys, of := byKey(history)
	unknown := 0
	for _, op := range history {
		if !op.Answered {
			unknown++
		}
	}
	fmt.Fprintf(out, "%d operations on %d keys, %d unknown, ", len(history), len(keys), unknown)
	deadline := time.Now().Add(limit)
	for _, key := range keys {
		switch check(of[key], deadline) {
		case porcupine.Illegal:
			fmt.Fprintf(out, "not linearizable\n")
			explain(out, key, of[key], deadline)
			return 1
		case porcupine.Unknown:
			fmt.Fprintf(out, "not checked within %v\n", limit)
			return 2
		}
	}
	fmt.Fprintf(out, "linearizable\n")
	return 0
}
