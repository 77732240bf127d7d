# Checks what the variables accept, without a Vault server: tofu init && tofu test
mock_provider "vault" {}

variables {
  path       = "team-a/kensho"
  vendor     = "kensho"
  credential = "batch"
  settings   = { client_id = "0oa1b2c3", scope = ["kensho:app:link", "kensho:app:scribe"] }
  secret     = { private_key = "-" }
  roles      = { link-reports = { scope = ["kensho:app:link"], ttl = 900 } }
}

run "a_role_has_only_the_fields_that_are_given" {
  command = plan

  assert {
    condition     = jsondecode(vault_generic_endpoint.role["link-reports"].data_json) == { config = "batch", scope = ["kensho:app:link"], ttl = 900 }
    error_message = "The role has other fields."
  }
  assert {
    condition     = vault_policy.role["link-reports"].name == "team-a/kensho/link-reports"
    error_message = "The policy has another name."
  }
}

run "a_role_can_have_fields_of_the_vendor" {
  command = plan

  variables {
    roles = {
      billing = { fields_json = jsonencode({ audience = ["https://billing.example.com"] }) }
      mary    = { fields_json = jsonencode({ subject = "mary@example.com" }) }
    }
  }

  assert {
    condition     = jsondecode(vault_generic_endpoint.role["billing"].data_json) == { config = "batch", audience = ["https://billing.example.com"] }
    error_message = "The role has other fields."
  }
}

run "a_path_with_a_slash_at_its_end_is_rejected" {
  command = plan
  variables { path = "kensho/" }
  expect_failures = [var.path]
}

run "a_version_without_v_is_rejected" {
  command = plan
  variables { plugin_version = "0.1.0" }
  expect_failures = [var.plugin_version]
}

run "a_lease_of_no_time_is_rejected" {
  command = plan
  variables { max_lease_ttl = 0 }
  expect_failures = [var.max_lease_ttl]
}

run "a_vendor_with_a_slash_is_rejected" {
  command = plan
  variables { vendor = "kensho/batch" }
  expect_failures = [var.vendor]
}

run "a_credential_with_a_slash_is_rejected" {
  command = plan
  variables { credential = "kensho/batch" }
  expect_failures = [var.credential]
}

run "a_secret_in_the_settings_is_rejected" {
  command = plan
  variables { settings = { client_id = "0oa1b2c3", private_key = "-" } }
  expect_failures = [var.settings]
}

run "settings_that_are_not_an_object_are_rejected" {
  command = plan
  variables { settings = "client_id=0oa1b2c3" }
  expect_failures = [var.settings]
}

run "a_role_with_the_name_of_the_credential_is_rejected" {
  command = plan
  variables { roles = { batch = {} } }
  expect_failures = [var.roles]
}

run "a_role_with_a_ttl_of_no_time_is_rejected" {
  command = plan
  variables { roles = { link-reports = { ttl = 0 } } }
  expect_failures = [var.roles]
}

run "a_role_whose_fields_are_not_json_is_rejected" {
  command = plan
  variables { roles = { link-reports = { fields_json = "audience" } } }
  expect_failures = [var.roles]
}
