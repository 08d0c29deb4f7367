# The service in an image: built with the whole toolchain, run without it, not as root.
#
#   docker build -t flexportal-sync .
#   docker run -e DATABASE_URL -e FLEXPORTAL_API_KEY -e FLEXPORTAL_TENANT_ID -e SHOPIFY_WEBHOOK_SECRET \
#       -p 8080:8080 flexportal-sync
#
# Needs nothing of the builder that the oldest Docker still in use does not have.

FROM rust:1-bookworm AS build
WORKDIR /build
# Queries are checked against `.sqlx`, not against a database.
ENV SQLX_OFFLINE=true CARGO_TERM_COLOR=never
# Waited for once, and run for months: optimised as a whole, as the benchmarks are.
ENV CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1
# Two megabytes less to load at each start; needs glibc 2.36 where it runs (its release notes: DT_RELR), as in the image
# below.
ENV RUSTFLAGS="-C link-arg=-Wl,-z,pack-relative-relocs"

# The dependencies in a layer of their own: it is built again only when the two files change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo '//! Stands in while the dependencies are built.' | tee src/lib.rs >src/main.rs \
    && echo 'fn main() {}' >>src/main.rs \
    && cargo build --release --locked \
    && rm -r src

COPY . .
# Cargo goes by file times; those of a checkout may be older than the stand-ins just built.
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --bin flexportal-sync

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="flexportal-sync" \
      org.opencontainers.image.description="Keeps FlexPortal customers in step with a web shop" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT"
# The root certificates, to know FlexPortal by.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin flexportal-sync
COPY LICENSE /usr/share/doc/flexportal-sync/
COPY --from=build /build/target/release/flexportal-sync /usr/local/bin/
# By number, so that Kubernetes' runAsNonRoot can tell.
USER 10001:10001
# Inside a container 127.0.0.1 would be out of reach.
ENV LISTEN_ADDR=0.0.0.0:8080
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["flexportal-sync", "check", "--alive"]
ENTRYPOINT ["flexportal-sync"]
CMD ["serve"]
