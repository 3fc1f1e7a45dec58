// Command app is what tests run in containers: a static program whose verbs end, fail, log or serve as a test wants.
// cri/fake plays the same verbs without a process.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	verb, args := "run", []string{"", "", ""}
	if len(os.Args) > 1 {
		verb = os.Args[1]
		copy(args, os.Args[2:])
	}
	switch verb {
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		for {
			time.Sleep(time.Hour)
		}
	case "exit":
		os.Exit(number(args[0]))
	case "exit-after":
		time.Sleep(length(args[0]))
		os.Exit(number(args[1]))
	case "sleep":
		time.Sleep(length(args[0]))
	case "message":
		check(os.WriteFile(args[0], []byte(args[1]), 0o666))
		os.Exit(number(args[2]))
	case "log":
		fmt.Println(strings.Join(os.Args[2:], " "))
		wait()
	case "say":
		fmt.Println(strings.Join(os.Args[min(4, len(os.Args)):], " "))
		time.Sleep(length(args[0]))
		os.Exit(number(args[1]))
	case "cat":
		for _, name := range os.Args[2:] {
			data, err := os.ReadFile(name)
			check(err)
			_, err = os.Stdout.Write(data)
			check(err)
		}
	case "stat":
		info, err := os.Stat(args[0])
		check(err)
		st := info.Sys().(*syscall.Stat_t)
		fmt.Printf("%v %d %d", info.Mode(), st.Uid, st.Gid)
	case "write":
		check(os.WriteFile(args[0], []byte(args[1]), 0o644))
	case "id":
		groups, err := os.Getgroups()
		check(err)
		fmt.Println(os.Getuid(), os.Getgid(), groups)
	case "env":
		for _, e := range os.Environ() {
			fmt.Println(e)
		}
	case "env-run":
		for _, e := range os.Environ() {
			fmt.Println(e)
		}
		wait()
	case "status":
		data, err := os.ReadFile("/proc/self/status")
		check(err)
		_, err = os.Stdout.Write(data)
		check(err)
	case "hostname":
		name, err := os.Hostname()
		check(err)
		fmt.Print(name)
	case "serve":
		check(http.ListenAndServe(args[0], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if code := number(strings.TrimPrefix(r.URL.Path, "/status/")); code > 0 {
				w.WriteHeader(code)
			}
			_, _ = io.WriteString(w, "ok")
		})))
	default:
		wait()
	}
}

// wait runs until SIGTERM, then ends as a process killed by it would.
func wait() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	<-c
	os.Exit(143)
}

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

func length(s string) time.Duration {
	d, _ := time.ParseDuration(s)
	return d
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
