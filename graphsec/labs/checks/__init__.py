"""What looks at answers: a module a lab, whose ``CHECKS`` holds a function for each exercise.

A check is given the names that the student's cells made, and raises ``Wrong`` with a hint.
"""
