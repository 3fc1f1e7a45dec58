package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"unknown key", "apiVersion: keb/v1\ndataDirectory: /x\n", `unknown field "dataDirectory"`},
		{"duplicate key", "apiVersion: keb/v1\nlisten: :1\nlisten: :2\n", `key "listen" already set`},
		{"wrong type", "apiVersion: keb/v1\nnoAgent: perhaps\n", "noAgent"},
		{"no version", "listen: :1\n", `apiVersion is "", want "keb/v1"`},
		{"no YAML", "{", "yaml"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "keb.yaml")
			if err := os.WriteFile(file, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(file)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), file) {
				t.Fatalf("got %v, want an error with %q that names the file", err, tc.want)
			}
		})
	}
}

func TestValidateNamesTheField(t *testing.T) {
	base, err := Default(Config{NodeName: "n", NodeIP: "192.0.2.7"})
	if err != nil {
		t.Fatal(err)
	}
	if err := base.Validate(); err != nil {
		t.Fatalf("the defaults are invalid: %v", err)
	}
	for _, tc := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.NodeName = "Bad_Name" }, "nodeName"},
		{func(c *Config) { c.Listen = "6443" }, "listen"},
		{func(c *Config) { c.IngressHTTP = "80" }, "ingressHTTP"},
		{func(c *Config) { c.IngressHTTPS = "no" }, "ingressHTTPS"},
		{func(c *Config) { c.NodeIP = "here" }, "nodeIP"},
		{func(c *Config) { c.NodeIP = "10.42.3.4" }, "nodeIP"},
		{func(c *Config) { c.ClusterCIDR = "10.42.1.0/16" }, "did you mean 10.42.0.0/16"},
		{func(c *Config) { c.ClusterCIDR = "10.42.0.0/28" }, "clusterCIDR"},
		{func(c *Config) { c.ServiceCIDR = "10.42.128.0/20" }, "overlaps"},
		{func(c *Config) { c.ServiceCIDR = "all" }, "serviceCIDR"},
		{func(c *Config) { c.RuntimeEndpoint = "tcp://x" }, "runtimeEndpoint"},
		{func(c *Config) { c.DNSForward = map[string][]string{"corp_x": {"10.0.0.2"}} }, "dnsForward[corp_x]"},
		{func(c *Config) { c.DNSForward = map[string][]string{"svc.cluster.local": {"10.0.0.2"}} }, "clusterDomain"},
		{func(c *Config) { c.DNSForward = map[string][]string{"corp": {}} }, "names no server"},
		{func(c *Config) { c.DNSForward = map[string][]string{"corp": {"10.0.0.2", "ns.corp:53"}} }, `"ns.corp:53" is no address`},
		{func(c *Config) { c.DNSForward = map[string][]string{"corp": {"10.0.0.2:0"}} }, `"10.0.0.2:0" is no address`},
		{func(c *Config) { c.Store = "paper" }, "store"},
		{func(c *Config) { c.LogLevel = "loud" }, "logLevel"},
	} {
		c := base
		tc.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v, want an error with %q", err, tc.want)
		}
	}
}

func TestServiceAddresses(t *testing.T) {
	c := Config{ServiceCIDR: "10.43.0.0/16"}
	if got := c.DNSAddress().String(); got != "10.43.0.10" {
		t.Errorf("DNS address %s", got)
	}
	if got := c.APIServiceAddress().String(); got != "10.43.0.1" {
		t.Errorf("API address %s", got)
	}
}
