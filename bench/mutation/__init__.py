"""Mutation testing of the method's arithmetic: do the tests turn red when a line of it is wrong?"""
