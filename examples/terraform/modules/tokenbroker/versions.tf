terraform {
  # OpenTofu 1.11, or Terraform 1.11: ephemeral variables, and ephemeral values for provisioners.
  required_version = ">= 1.11.0"

  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 5.8.0, < 6.0.0"
    }
  }
}
