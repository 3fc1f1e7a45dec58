// Command mkimage writes a container image of one layer from files, without a registry and without Docker:
//
//	mkimage -o hello.tar -name keb.local/hello:1 -entrypoint /hello hello=bin/hello
//
// Each argument is PATH-IN-IMAGE=FILE, PATH-IN-IMAGE@TARGET for a symbolic link, or PATH-IN-IMAGE/ for a directory that anyone may write to.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/kebernetes/kebernetes/bundle"
)

func main() {
	out := flag.String("o", "", "archive to write")
	name := flag.String("name", "", "image name with tag")
	entrypoint := flag.String("entrypoint", "", "program that the image runs")
	env := flag.String("env", "", "NAME=VALUE, separated by commas")
	flag.Parse()
	if err := run(*out, *name, *entrypoint, *env, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(out, name, entrypoint, env string, args []string) error {
	img := bundle.Image{Name: name}
	if entrypoint != "" {
		img.Entrypoint = []string{entrypoint}
	}
	if env != "" {
		img.Env = strings.Split(env, ",")
	}
	for _, a := range args {
		file, err := entry(a)
		if err != nil {
			return err
		}
		img.Files = append(img.Files, file)
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := bundle.WriteImage(f, img); err != nil {
		return err
	}
	return f.Close()
}

func entry(arg string) (bundle.File, error) {
	if path, ok := strings.CutSuffix(arg, "/"); ok {
		return bundle.File{Path: path, Mode: 0o1777, Dir: true}, nil
	}
	if path, target, ok := strings.Cut(arg, "@"); ok {
		return bundle.File{Path: path, Mode: 0o777, Link: target}, nil
	}
	path, source, ok := strings.Cut(arg, "=")
	if !ok {
		return bundle.File{}, fmt.Errorf("%q is neither PATH=FILE, PATH@TARGET nor DIR/", arg)
	}
	data, err := os.ReadFile(source)
	if err != nil {
		return bundle.File{}, err
	}
	return bundle.File{Path: path, Mode: 0o755, Data: data}, nil
}
