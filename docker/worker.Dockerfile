# A worker: sshd and orion-agent on Debian. What it may do is said where it is started (docker-compose.yml,
# launch_workers.sh): all capabilities dropped but those that logins and accounts need.
#   docker build --file docker/worker.Dockerfile --tag orion/worker .
ARG BINARIES=build

# The programs, from these sources. The same text in every Dockerfile of Orion, so that Docker builds it once.
# BINARIES names an image that has them ready in /out instead (docker/build-images.sh).
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked \
        --package orion-control-plane --package orion-scheduler --package orion-cli --package orion-agent \
    && install -D --strip --target-directory /out target/release/orion-control-plane \
        target/release/orion-scheduler target/release/orion target/release/orion-agent

FROM ${BINARIES} AS binaries

FROM debian:bookworm-slim
# cron and at are left out: a lease needs neither, and what is not there cannot be left behind in it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates openssh-server procps \
    && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /etc/ssh/ssh_host_*
COPY docker/worker-sshd.conf /etc/ssh/sshd_config.d/50-orion-worker.conf
COPY docker/worker-healthcheck.sh /usr/local/bin/orion-healthcheck
COPY --chmod=755 deploy/container/agent-entrypoint.sh /usr/local/sbin/orion-entrypoint
COPY --from=binaries /out/orion-agent /usr/local/sbin/
EXPOSE 22
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["orion-healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["orion-entrypoint"]
