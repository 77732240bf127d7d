variable "path" {
  description = "Path of the mount, such as kensho. A change moves the mount with its credentials, for which the token of Terraform needs sys/remount."
  type        = string

  validation {
    condition     = can(regex("^[^/\\s]([^\\s]*[^/\\s])?$", var.path))
    error_message = "The path must not begin or end with a slash or contain spaces: kensho, team-a/kensho."
  }
}

variable "plugin" {
  description = "Name under which the plugin is registered in Vault's catalog."
  type        = string
  default     = "tokenbroker"
}

variable "plugin_version" {
  description = "Registered version of the plugin to pin, such as v0.1.0. Without it, Vault uses the version that the catalog has without a version. A mount uses a changed version after vault plugin reload."
  type        = string
  default     = null

  validation {
    condition     = var.plugin_version == null || can(regex("^v\\d+\\.\\d+\\.\\d+", var.plugin_version))
    error_message = "The version must begin with v, as it was registered: v0.1.0."
  }
}

variable "description" {
  description = "Description of the mount."
  type        = string
  default     = "Access tokens"
}

variable "max_lease_ttl" {
  description = "Maximum lease of creds/ for all names of the mount, in seconds, such as 3600. Without it, Vault's own maximum applies."
  type        = number
  default     = null

  validation {
    condition     = var.max_lease_ttl == null ? true : var.max_lease_ttl >= 1
    error_message = "The maximum lease must be at least one second."
  }
}

variable "vendor" {
  description = "Vendor of the credential, such as kensho or oauth2. It is part of the path of the credential."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", var.vendor))
    error_message = "The vendor must be a name of lower case letters, digits and hyphens, as `vault list kensho/vendors` shows it."
  }
}

variable "credential" {
  description = "Name of the credential, such as batch. After a change, the old credential stays in Vault until you delete it."
  type        = string

  validation {
    condition     = can(regex("^\\w([\\w.@+-]*\\w)?$", var.credential))
    error_message = "The name must have only letters, digits, underscores and .@+-, and begin and end with a letter, a digit or an underscore."
  }
}

variable "settings" {
  description = "Fields of the credential that are not secret, such as { client_id = \"...\", scope = [\"read\"] }. They are in the state, and a plan shows changes. The module refuses the secret fields of the vendors in the catalogue, but cannot know those of your own definitions. Give lists as lists, and durations in seconds. To clear a field, set it to \"\"."
  type        = any
  default     = {}

  validation {
    condition     = can(keys(var.settings))
    error_message = "The settings must be an object."
  }
  validation {
    condition     = !can(keys(var.settings)) || length(setintersection(keys(var.settings), ["access_token", "api_key", "api_secret", "api_token", "application_key", "client_secret", "password", "personal_access_token", "private_key", "refresh_token", "subscription_key", "token_secret"])) == 0
    error_message = "The settings are in the state, and must not contain a secret: use the variable secret."
  }
}

variable "secret" {
  description = "Secret fields of the credential, such as { private_key = \"...\" }. They are never in the state or in a plan. Needed only when the secret is written; null at other times."
  type        = map(string)
  default     = {}
  ephemeral   = true
  sensitive   = true
}

variable "secret_version" {
  description = "Number to raise when the secret changes. Nothing else makes Terraform write a new secret, because it does not store the old one."
  type        = number
  default     = 1
}

variable "roles" {
  description = "Roles by name, such as { reports = { scope = [\"read\"], ttl = 900 } }. Without roles, applications read the credential itself, and need a policy for it. Durations are in seconds. fields_json has other fields that narrow the tokens of the vendor, such as jsonencode({ audience = [\"https://api.example.com\"] })."
  type = map(object({
    scope         = optional(list(string))
    ttl           = optional(number)
    min_ttl       = optional(number)
    dedicated     = optional(bool)
    max_leases    = optional(number)
    max_exchanges = optional(number)
    fields_json   = optional(string, "{}")
  }))
  default = {}

  validation {
    condition     = alltrue([for name in keys(var.roles) : name != var.credential && can(regex("^\\w([\\w.@+-]*\\w)?$", name))])
    error_message = "The name of a role must have only letters, digits, underscores and .@+-, and differ from the name of the credential."
  }
  validation {
    condition     = alltrue([for role in values(var.roles) : alltrue([for ttl in [role.ttl, role.min_ttl] : ttl == null ? true : ttl >= 1])])
    error_message = "The durations of a role are in seconds, and at least 1."
  }
  validation {
    condition     = alltrue([for role in values(var.roles) : can(keys(jsondecode(role.fields_json)))])
    error_message = "The fields_json of a role must be a JSON object."
  }
}
