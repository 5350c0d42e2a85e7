import { expect, it } from 'vitest';

import { actionText } from './audit';

it.each([
	['sandbox.create', 'Sandbox made'],
	['api_key.delete', 'API key deleted'],
	['host.token_renewed', 'Host token renewed'],
	['team.byoc', 'Own hosts switched'],
	['template.build', 'Template built'],
	['setup', 'Setup']
])('says %s as "%s"', (action, text) => expect(actionText(action)).toBe(text));
