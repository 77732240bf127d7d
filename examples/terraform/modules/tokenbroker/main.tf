# A mount of the engine, one credential, and its roles and policies. The secret of the credential
# is in no state and in no plan.

resource "vault_mount" "this" {
  path                  = var.path
  type                  = var.plugin
  plugin_version        = var.plugin_version
  description           = var.description
  max_lease_ttl_seconds = var.max_lease_ttl
}

# Writes the secret, with the settings, because the engine verifies them together at the vendor
# before it stores them. If the vendor rejects them, the apply fails with its reason, the previous
# credential stays in use, and the next apply tries again.
#
# The provider (up to 5.11) has no write-only argument for a path of any engine. Terraform stores
# no ephemeral value that a provisioner uses, so the Vault CLI writes the secret. It reads the
# secret from its standard input, because other processes can see arguments.
resource "terraform_data" "secret" {
  triggers_replace = [vault_mount.this.accessor, var.vendor, var.credential, var.secret_version]

  provisioner "local-exec" {
    command = <<-EOT
      if [ -z "$FIELDS" ]; then
        echo "The secret must be written, but the variable secret, or a value of it, is null or empty." >&2
        exit 1
      fi
      printf %s "$FIELDS" | vault write "$CONFIG_PATH" -
    EOT
    environment = {
      CONFIG_PATH = "${vault_mount.this.path}/config/${var.vendor}/${var.credential}"
      FIELDS      = var.secret == null ? "" : anytrue([for value in values(var.secret) : value == null || value == ""]) ? "" : jsonencode(merge(var.settings, var.secret))
    }
  }
}

# The settings, so that a plan shows a change that was made outside Terraform. A write changes only
# the fields that it names, so this does not change the secret.
resource "vault_generic_endpoint" "settings" {
  path                 = "${vault_mount.this.path}/config/${var.vendor}/${var.credential}"
  ignore_absent_fields = true
  data_json            = jsonencode(var.settings)

  # A replacement, such as after a change of the path, must not delete the secret. The deletion of
  # the mount deletes the credential.
  disable_delete = true

  depends_on = [terraform_data.secret]
}

resource "vault_generic_endpoint" "role" {
  for_each = var.roles

  path                 = "${vault_mount.this.path}/roles/${each.key}"
  ignore_absent_fields = true
  data_json = jsonencode(merge(
    { config = var.credential },
    { for field, value in each.value : field => value if field != "fields_json" && value != null },
    jsondecode(each.value.fields_json),
  ))

  # The credential must exist before a role, and until its roles are deleted.
  depends_on = [vault_generic_endpoint.settings]
}

resource "vault_policy" "role" {
  for_each = var.roles

  # A role has no slash in its name, so that no other mount has a policy with this name.
  name   = "${vault_mount.this.path}/${each.key}"
  policy = <<-EOT
    path "${vault_mount.this.path}/creds/${each.key}" {
      capabilities = ["read"]
    }
    path "${vault_mount.this.path}/token/${each.key}" {
      capabilities = ["read"]
    }
  EOT
}
