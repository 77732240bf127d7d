# For monitoring: read whether each credential works and when it expires. status/ contains no
# secret.

path "kensho/status/*" {
  capabilities = ["read", "list"]
}
