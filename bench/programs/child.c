/* SPDX-License-Identifier: Apache-2.0 */
/* What the programs that measure exec start: it does nothing. */
int main(void)
{
	return 7;
}
