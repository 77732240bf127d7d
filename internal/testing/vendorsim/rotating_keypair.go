package vendorsim

import "crypto"

// SetSnowflakeKey gives a user that AddRotating has added another first public key, as an administrator does.
func (s *Sim) SetSnowflakeKey(name string, key crypto.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.account("snowflake", name)
	for _, h := range a.stored() {
		s.remove(h)
	}
	a.hold(newSnowflakeKey(snowflakeSlot, key), s.now())
}
