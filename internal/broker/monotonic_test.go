package broker

import (
	"time"
	"unsafe"
)

// shiftMonotonic moves the monotonic reading of a time, and not its wall clock reading. No function
// of package time does that, and a test cannot change the machine's clocks.
func shiftMonotonic(t *time.Time, by time.Duration) {
	(*struct { // the layout of time.Time
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(t)).ext += int64(by)
}
