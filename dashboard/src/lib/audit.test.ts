import { expect, it } from 'vitest';

import { actionText } from './audit';

it.each([
	['sandbox.create', 'Sandbox made'],
	['api_key.delete', 'API key deleted'],
	['host.token_renewed', 'Host token renewed'],
	['setup', 'Setup']
])('says %s as "%s"', (action, text) => expect(actionText(action)).toBe(text));
