# check=error=true

# The image for Vault's containerized plugins, built from the output of `make dist`:
#
#     make dist VERSION=v0.1.0
#     docker build --build-arg VERSION=v0.1.0 -t tokenbroker:0.1.0 -f Dockerfile dist/bin
#
# The binary is static and includes the root certificates that it verifies vendors with, so
# the image contains nothing else that needs patches.
FROM scratch

ARG TARGETOS TARGETARCH
COPY ${TARGETOS}_${TARGETARCH}/LICENSE \
     ${TARGETOS}_${TARGETARCH}/THIRD_PARTY_LICENSES \
     ${TARGETOS}_${TARGETARCH}/vault-plugin-secrets-tokenbroker /

# Set --build-arg USER=0:0 for a server with mlock enabled (a scratch image has no tool that
# could give the binary the IPC_LOCK capability), and for rootless Docker without gVisor.
ARG USER=65532:65532
USER ${USER}
ENTRYPOINT ["/vault-plugin-secrets-tokenbroker"]

ARG VERSION
LABEL org.opencontainers.image.title="vault-plugin-secrets-tokenbroker" \
      org.opencontainers.image.description="A Vault secrets engine that leases short-lived access tokens of API vendors" \
      org.opencontainers.image.licenses="MPL-2.0" \
      org.opencontainers.image.version="${VERSION}"
