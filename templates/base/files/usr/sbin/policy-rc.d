#!/bin/sh
# There is no init system in a sandbox: packages must not try to start their services.
exit 101
