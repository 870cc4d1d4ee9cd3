# Stands in for Alpine, as far as its worker image goes: BusyBox for every tool, OpenSSH without PAM, and no
# useradd, no bash, no procps, no glibc but in the places where OpenSSH's own programs look for it.
FROM debian:bookworm-slim AS parts
RUN apt-get update && apt-get install -y --no-install-recommends openssh-server
COPY alpine-root.sh busybox /
RUN sh /alpine-root.sh /root-of-it

FROM scratch
COPY --from=parts /root-of-it /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
CMD ["/bin/sh"]
