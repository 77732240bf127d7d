# check=error=true

# The image for Vault's containerized plugins, of what `make dist` built:
#
#     make dist VERSION=v0.1.0
#     docker build --build-arg VERSION=v0.1.0 -t tokenbroker:0.1.0 -f Dockerfile dist/bin
#
# The binary is static and brings the authorities that vendors' certificates are checked
# against, so there is nothing else to have, and nothing else to patch.
FROM scratch

ARG TARGETOS TARGETARCH
COPY ${TARGETOS}_${TARGETARCH}/LICENSE \
     ${TARGETOS}_${TARGETARCH}/THIRD_PARTY_LICENSES \
     ${TARGETOS}_${TARGETARCH}/vault-plugin-secrets-tokenbroker /

# With --build-arg USER=0:0 the image is for a server that has mlock enabled (scratch has
# nothing to give the binary its IPC_LOCK with), and for rootless Docker without gVisor.
ARG USER=65532:65532
USER ${USER}
ENTRYPOINT ["/vault-plugin-secrets-tokenbroker"]

ARG VERSION
LABEL org.opencontainers.image.title="vault-plugin-secrets-tokenbroker" \
      org.opencontainers.image.description="A Vault secrets engine that leases short-lived access tokens of API vendors" \
      org.opencontainers.image.licenses="MPL-2.0" \
      org.opencontainers.image.version="${VERSION}"
