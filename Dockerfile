# One builder, then one small image a role: docker build --target pusher .
# Without --target it is the whole command line: docker run IMAGE COMMAND...

FROM rust:1.89-slim-bookworm AS build
# For OpenSSL and librdkafka, which are compiled into the binary.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ make perl \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches keep compiled dependencies from one build to the next.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin metrobus \
    && strip --strip-debug -o /metrobus target/release/metrobus

FROM debian:bookworm-slim AS runtime
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin metrobus \
    && install -d -o metrobus -g metrobus /var/lib/metrobus /var/lib/metrobus/data
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /metrobus /usr/local/bin/metrobus
# Relative paths in the configuration start here; mount a volume on data to keep it.
WORKDIR /var/lib/metrobus
USER 10001

FROM runtime AS pusher
ENTRYPOINT ["metrobus", "pusher"]

FROM runtime AS busdriver
ENTRYPOINT ["metrobus", "busdriver"]

FROM runtime AS contactpoint
ENTRYPOINT ["metrobus", "contactpoint"]

FROM runtime AS whitelist
ENTRYPOINT ["metrobus", "whitelist"]

FROM runtime AS logstop
ENTRYPOINT ["metrobus", "logstop"]

FROM runtime AS gateway
ENTRYPOINT ["metrobus", "gateway"]

FROM runtime AS deliver
ENTRYPOINT ["metrobus", "deliver"]

FROM runtime AS metrobus
ENTRYPOINT ["metrobus"]
