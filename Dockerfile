# The program in an image of its own: docs/deployment.md says how it is run.
#
#   make image               build it whole
#   make image BINARY=FILE   put a program that was built elsewhere on the stage `base` (scripts/image)
#
# Base images are parameters. Both must have the same C library, the second one not an older one than the first.
ARG BUILD_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim
# The order of stages matters: a builder without BuildKit runs every stage above the one it is asked for, and with BINARY
# nothing is to be compiled. It knows no `COPY --chmod`, either.

FROM ${RUNTIME_IMAGE} AS base
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Holdfast" \
      org.opencontainers.image.description="An industrial gateway that runs on three boxes instead of one" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# A fixed number, so that volumes fit whatever image made them. Written by hand: a small base may have no useradd.
# Volumes that are new take the owner of the folder below them: node files and certificates, data, CSV files.
RUN echo 'holdfast:x:10001:10001:Holdfast node:/var/lib/holdfast:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'holdfast:x:10001:' >> /etc/group \
    && mkdir -p /etc/holdfast /var/lib/holdfast /srv/holdfast \
    && chown 10001:10001 /etc/holdfast /var/lib/holdfast /srv/holdfast \
    && chmod 0750 /etc/holdfast /var/lib/holdfast
USER 10001:10001
WORKDIR /
# Peers, API, health and metrics.
EXPOSE 7610 7611 7612
VOLUME /var/lib/holdfast
# A leader hands over before it goes: give it time (docker stop --time 60, stop_grace_period in compose.yaml).
STOPSIGNAL SIGTERM
# Whether it is alive. Whether it belongs to a cluster with a majority is another question: `holdfast health --ready`.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/usr/local/bin/holdfast", "health"]
# A node that is the first process does not start (HF-1105): docker run --init, init: true in compose.yaml.
ENTRYPOINT ["/usr/local/bin/holdfast"]
CMD ["node", "--config", "/etc/holdfast/node.toml"]

FROM ${BUILD_IMAGE} AS build
# What scripts/setup looks for: RocksDB is built from source, and libclang reads its headers.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libclang-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The toolchain is that of the image: rust-toolchain.toml would fetch lints and formatter, too. By package, as in
# `make release`: what simulations ask of tokio has no place in a plant.
RUN rm rust-toolchain.toml \
    && cargo build --locked --release --package holdfast \
    && cp target/release/holdfast /usr/local/bin/holdfast \
    && strip --strip-debug /usr/local/bin/holdfast \
    && rm -rf target

# The last one is what is built if nothing is said.
FROM base AS runtime
# For destinations that speak HTTPS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /usr/local/bin/holdfast /usr/local/bin/holdfast
