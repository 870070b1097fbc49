# The image of helloapi: one static binary on an image without a shell, run by a user that is not root.
#
#   make image
#
# The base images come by build argument, so that a mirror or a machine without a registry can supply its own.
# It needs BuildKit: what Docker builds with since version 23, and before that with DOCKER_BUILDKIT=1.
ARG GO_IMAGE=golang:1.26-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/static-debian12:nonroot

# Go compiles for any platform, so the compiler runs on the machine's own.
FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY cmd cmd
COPY internal internal
COPY migrations migrations
ARG TARGETOS TARGETARCH VERSION
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.release=$VERSION" -o /out/helloapi ./cmd/helloapi \
    && mkdir /out/root && mkdir -m 770 /out/root/data

FROM ${RUNTIME_IMAGE}
COPY --from=build /out/helloapi /usr/local/bin/helloapi
# Where the SQLite database is unless DATABASE_URL says otherwise: docker run -v helloapi:/data keeps it. A new volume
# takes its owner and its mode from here. Platforms that choose a user (OpenShift) run it in group 0. What is copied is the
# folder above: a folder that is itself copied loses its mode.
COPY --from=build --chown=65532:0 /out/root /
WORKDIR /
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=4s --retries=2 CMD ["helloapi", "healthcheck"]
ENTRYPOINT ["helloapi"]
CMD ["serve"]
ARG VERSION
LABEL org.opencontainers.image.title="helloapi" \
      org.opencontainers.image.description="A self-hosted HTTP API with keys, usage plans and durable counts" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION"
