# The operator, one static binary, alone in an image, for amd64 and arm64:
#   docker buildx build --platform linux/amd64,linux/arm64 --tag etcd-warden:dev .
# The compiler runs on the builder's own platform and compiles for the other, which is many times quicker than emulating it.
FROM --platform=$BUILDPLATFORM rust:1.95-slim-bookworm AS build
ARG BUILDARCH
ARG TARGETARCH
ENV CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    RUSTFLAGS="-C target-feature=+crt-static"
WORKDIR /src
RUN case "$TARGETARCH" in \
      amd64) target=x86_64-unknown-linux-gnu cross="gcc-x86-64-linux-gnu libc6-dev-amd64-cross" ;; \
      arm64) target=aarch64-unknown-linux-gnu cross="gcc-aarch64-linux-gnu libc6-dev-arm64-cross" ;; \
      *) echo "there is no image for $TARGETARCH" >&2; exit 1 ;; \
    esac \
 && if [ "$TARGETARCH" = "$BUILDARCH" ]; then cross=""; fi \
 && apt-get update \
 && apt-get install --yes --no-install-recommends protobuf-compiler libprotobuf-dev $cross \
 && rustup target add "$target" \
 && echo "$target" >/target
COPY Cargo.toml Cargo.lock ./
COPY src src
RUN cargo build --locked --release --bin etcd-warden --target "$(cat /target)" \
 && cp "target/$(cat /target)/release/etcd-warden" /etcd-warden

FROM scratch
COPY --from=build /etcd-warden /etcd-warden
USER 65532:65532
ENTRYPOINT ["/etcd-warden"]
