output "path" {
  description = "Path of the mount."
  value       = vault_mount.this.path
}

output "accessor" {
  description = "Accessor of the mount."
  value       = vault_mount.this.accessor
}

output "creds_paths" {
  description = "Path of each role from which applications read a token with a lease."
  value       = { for name in keys(vault_generic_endpoint.role) : name => "${vault_mount.this.path}/creds/${name}" }
}

output "token_paths" {
  description = "Path of each role from which applications read a token without a lease."
  value       = { for name in keys(vault_generic_endpoint.role) : name => "${vault_mount.this.path}/token/${name}" }
}

output "policies" {
  description = "Policy of each role, to add to the auth role of the application."
  value       = { for name, policy in vault_policy.role : name => policy.name }
}
