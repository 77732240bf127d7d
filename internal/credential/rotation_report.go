package credential

// A RotationReport is a rotation that has ended.
type RotationReport struct {
	Path     string // of what was rotated: config/<vendor>/<name>, clients/<name> or keypair/<name>
	Vendor   string // "" for a key pair
	Name     string
	Err      error  // why it failed; nil if it succeeded
	Failures int    // in a row
	By       string // who asked for it; "" for the schedule
}
