package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
)

// Image describes a container image of one layer. The fields are those of the OCI image specification's config.
type Image struct {
	Name       string // full reference with tag
	Files      []File
	Entrypoint []string
	Cmd        []string
	Env        []string
	WorkingDir string
	User       string
}

// File is one entry of the layer. Path is relative to the image's root. Link makes it a symbolic link, a Mode with the
// directory bit a directory.
type File struct {
	Path string
	Mode int64
	Data []byte
	Link string
	Dir  bool
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// WriteImage writes an OCI image archive (https://github.com/opencontainers/image-spec/blob/main/image-layout.md).
// The same input gives the same bytes.
func WriteImage(w io.Writer, img Image) error {
	layer, diffID, err := packLayer(img.Files)
	if err != nil {
		return fmt.Errorf("pack image %s: %w", img.Name, err)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": struct {
			User       string   `json:",omitempty"`
			Env        []string `json:",omitempty"`
			Entrypoint []string `json:",omitempty"`
			Cmd        []string `json:",omitempty"`
			WorkingDir string   `json:",omitempty"`
		}{img.User, img.Env, img.Entrypoint, img.Cmd, img.WorkingDir},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{diffID}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        describe("application/vnd.oci.image.config.v1+json", config),
		"layers":        []descriptor{describe("application/vnd.oci.image.layer.v1.tar+gzip", layer)},
	})
	if err != nil {
		return err
	}
	top := describe("application/vnd.oci.image.manifest.v1+json", manifest)
	top.Platform = &platform{runtime.GOARCH, "linux"}
	top.Annotations = map[string]string{"io.containerd.image.name": img.Name, "org.opencontainers.image.ref.name": img.Name}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{top}})
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	for _, f := range []File{
		{Path: "oci-layout", Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{Path: "index.json", Data: index},
		{Path: blob(manifest), Data: manifest},
		{Path: blob(config), Data: config},
		{Path: blob(layer), Data: layer},
	} {
		f.Mode = 0o644
		if err := writeEntry(t, f); err != nil {
			return err
		}
	}
	return t.Close()
}

func packLayer(files []File) (layer []byte, diffID string, err error) {
	var plain, packed bytes.Buffer
	t := tar.NewWriter(&plain)
	for _, f := range files {
		if err := writeEntry(t, f); err != nil {
			return nil, "", err
		}
	}
	if err := t.Close(); err != nil {
		return nil, "", err
	}
	diffID = digest(plain.Bytes())
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(plain.Bytes()); err != nil {
		return nil, "", err
	}
	if err := z.Close(); err != nil {
		return nil, "", err
	}
	return packed.Bytes(), diffID, nil
}

func writeEntry(t *tar.Writer, f File) error {
	h := &tar.Header{Name: f.Path, Mode: f.Mode, Size: int64(len(f.Data)), Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	switch {
	case f.Dir:
		h.Typeflag = tar.TypeDir
	case f.Link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err := t.Write(f.Data)
	return err
}

func describe(mediaType string, data []byte) descriptor {
	return descriptor{MediaType: mediaType, Digest: digest(data), Size: len(data)}
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func blob(data []byte) string { return "blobs/sha256/" + digest(data)[len("sha256:"):] }
