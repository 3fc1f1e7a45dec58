// Package node keeps a node's own object and lease: registration, capacity, conditions, addresses and heartbeats.
// Only agent and, for what the machine has used, daemon import it.
package node

import (
	"bufio"
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Machine is what a node is made of. Read fills it.
type Machine struct {
	CPUs   int64
	Memory int64 // bytes
	Disk   int64 // bytes of the file system that holds the node's data
	Huge   map[string]int64
	Info   corev1.NodeSystemInfo
}

// Read looks at this machine. dir lies on the file system whose size counts as ephemeral storage.
func Read(dir string) Machine {
	m := Machine{CPUs: int64(runtime.NumCPU()), Memory: Meminfo("MemTotal"), Huge: hugePages()}
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil {
		m.Disk = int64(st.Blocks) * st.Bsize
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Info.KernelVersion = unix.ByteSliceToString(u.Release[:])
	}
	m.Info.MachineID = word("/etc/machine-id")
	m.Info.SystemUUID = word("/sys/class/dmi/id/product_uuid")
	if m.Info.SystemUUID == "" {
		m.Info.SystemUUID = m.Info.MachineID
	}
	m.Info.BootID = word("/proc/sys/kernel/random/boot_id")
	m.Info.OSImage = osImage()
	m.Info.OperatingSystem = runtime.GOOS
	m.Info.Architecture = runtime.GOARCH
	return m
}

func word(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func osImage() string {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return "Linux"
}

// Meminfo reads a line of /proc/meminfo, in bytes; 0 when there is none.
func Meminfo(name string) int64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 2 && fields[0] == name+":" {
			n, _ := strconv.ParseInt(fields[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// hugePages returns the bytes per page size, named as resources: "hugepages-2Mi".
func hugePages() map[string]int64 {
	out := map[string]int64{}
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return out
	}
	for _, e := range entries {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		count, _ := strconv.ParseInt(word("/sys/kernel/mm/hugepages/"+e.Name()+"/nr_hugepages"), 10, 64)
		out[corev1.ResourceHugePagesPrefix+resource.NewQuantity(kb<<10, resource.BinarySI).String()] = count * kb << 10
	}
	return out
}

// Capacity returns what the machine has and what pods may use of it.
func (m Machine) Capacity(pods int64) (capacity, allocatable corev1.ResourceList) {
	capacity = corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(m.CPUs, resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(m.Memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(m.Disk, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(pods, resource.DecimalSI),
	}
	huge := int64(0)
	for name, bytes := range m.Huge {
		capacity[corev1.ResourceName(name)] = *resource.NewQuantity(bytes, resource.BinarySI)
		huge += bytes
	}
	allocatable = capacity.DeepCopy()
	allocatable[corev1.ResourceMemory] = *resource.NewQuantity(max(m.Memory-evictionMemory-huge, 0), resource.BinarySI)
	allocatable[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(m.Disk/100*(100-evictionDisk), resource.BinarySI)
	return capacity, allocatable
}
