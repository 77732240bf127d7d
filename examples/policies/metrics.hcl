# For Prometheus: read the metrics of the mount, which contain no secret.

path "kensho/metrics" {
  capabilities = ["read"]
}
