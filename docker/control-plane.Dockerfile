# orion-control-plane, and `orion` for whoever runs it.
#   docker build --file docker/control-plane.Dockerfile --tag orion/control-plane .
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
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log
COPY docker/healthcheck.sh /usr/local/bin/orion-healthcheck
COPY --from=binaries /out/orion /out/orion-control-plane /usr/local/bin/
ENV ORION_LISTEN=0.0.0.0:8080 ORION_LOG_FORMAT=json HOME=/tmp
EXPOSE 8080
USER 10001:10001
WORKDIR /
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["orion-healthcheck", "8080"]
# A soft stop takes at most 20 seconds.
STOPSIGNAL SIGTERM
ENTRYPOINT ["orion-control-plane"]
