package fake_test

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kebernetes/kebernetes/cri/critest"
	"github.com/kebernetes/kebernetes/cri/fake"
)

func TestContract(t *testing.T) {
	critest.Run(t, func(t *testing.T) critest.Subject {
		missing := "registry.invalid/missing:1"
		return critest.Subject{Image: "registry.invalid/app:1", Missing: missing, Runtime: fake.New(fake.Options{
			Pull: func(_ context.Context, image string, _ *rt.AuthConfig) error {
				if image == missing {
					return status.Errorf(codes.NotFound, "failed to resolve reference %q: not found", image)
				}
				return nil
			},
		})}
	})
}
