# A worker on Alpine: musl's system, BusyBox's tools, and an agent that needs none of their libraries.
#   docker build --file docker/worker-alpine.Dockerfile --tag orion/worker-alpine .
ARG BINARIES=build
ARG ALPINE=alpine:3

# `+crt-static`: one file without a dynamic loader, which musl's system does not have for glibc. BINARIES names
# an image that has it ready in /out instead (docker/build-images.sh).
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target="$(uname -m)-unknown-linux-gnu" \
    && cargo build --release --locked --package orion-agent --target "$target" --target-dir target/static \
    && install -D --strip "target/static/$target/release/orion-agent" /out/orion-agent-static

FROM ${BINARIES} AS binaries

FROM ${ALPINE}
RUN apk add --no-cache openssh-server openssh-client-default openssh-keygen
COPY docker/worker-sshd-alpine.conf /etc/ssh/sshd_config.d/50-orion-worker.conf
COPY docker/worker-healthcheck-alpine.sh /usr/local/bin/orion-healthcheck
COPY --chmod=755 deploy/container/agent-entrypoint.sh /usr/local/sbin/orion-entrypoint
COPY --from=binaries /out/orion-agent-static /usr/local/sbin/orion-agent
EXPOSE 22
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["orion-healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["orion-entrypoint"]
