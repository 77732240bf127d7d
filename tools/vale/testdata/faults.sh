# The token is alive.
echo 'Reading the token (it has a lifetime) …'
echo 'The engine is left alone.'
