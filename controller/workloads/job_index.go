package workloads

import (
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// indexSet is a set of completion indexes, kept as ordered, disjoint ranges: what a Job's status spells "0-2,5".
type indexSet []indexRange

type indexRange struct{ first, last int }

// parseIndexes reads the text of a status. Indexes from limit on, and what follows a mistake, are left out.
func parseIndexes(text string, limit int) indexSet {
	var s indexSet
	if text == "" {
		return nil
	}
	for _, part := range strings.Split(text, ",") {
		a, b, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(a)
		if err != nil || first >= limit {
			break
		}
		last := first
		if isRange {
			if last, err = strconv.Atoi(b); err != nil {
				break
			}
		}
		last = min(last, limit-1)
		// Two in a row are spelled apart, but are one range.
		if n := len(s); n > 0 && s[n-1].last+1 == first {
			s[n-1].last = last
			continue
		}
		s = append(s, indexRange{first, last})
	}
	return s
}

// String spells the set; two in a row are a range only from three on, as upstream writes it.
func (s indexSet) String() string {
	var b strings.Builder
	for _, r := range s {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(r.first))
		if r.last > r.first {
			if r.last == r.first+1 {
				b.WriteByte(',')
			} else {
				b.WriteByte('-')
			}
			b.WriteString(strconv.Itoa(r.last))
		}
	}
	return b.String()
}

// find returns the position of the first range that ends at or after i.
func (s indexSet) find(i int) int {
	at, _ := slices.BinarySearchFunc(s, i, func(r indexRange, i int) int { return r.last - i })
	return at
}

func (s indexSet) has(i int) bool {
	at := s.find(i)
	return at < len(s) && s[at].first <= i
}

// with returns the set with one more index.
func (s indexSet) with(i int) indexSet {
	at := s.find(i)
	if at < len(s) && s[at].first <= i {
		return s
	}
	out := slices.Insert(slices.Clone(s), at, indexRange{i, i})
	if at+1 < len(out) && out[at+1].first == i+1 {
		out[at].last = out[at+1].last
		out = slices.Delete(out, at+1, at+2)
	}
	if at > 0 && out[at-1].last == i-1 {
		out[at-1].last = out[at].last
		out = slices.Delete(out, at, at+1)
	}
	return out
}

func (s indexSet) total() int {
	n := 0
	for _, r := range s {
		n += r.last - r.first + 1
	}
	return n
}

// podIndex returns the completion index of a pod of an indexed job, or -1.
func podIndex(pod *corev1.Pod) int {
	n, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// failedBefore is how often the pod's index had failed before this pod.
func failedBefore(pod *corev1.Pod) int {
	n, err := strconv.Atoi(pod.Annotations[batchv1.JobIndexFailureCountAnnotation])
	if err != nil {
		return 0
	}
	return n
}
